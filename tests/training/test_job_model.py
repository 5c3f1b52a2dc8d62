"""Sequences of what can happen to a job, drawn by hypothesis, against a model of what must hold.

The training step is that of stub_model.py. Whatever happened before, the run that is started once more ends with the
state, metrics and export of one that nothing happened to, bit for bit, on every mesh and number of processes.
"""

import dataclasses
import json
import re
import signal
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from jobs import Process, Zygote, codes, start_job, zygote
from runs import arguments, outcome, recipe, steps_taken, videos
from test_endings import QUICK, TRUE

from timesformer_jax.checkpoints.training_run import steps_in
from timesformer_jax.data.config import Augmentation
from timesformer_jax.support.distributed import LOST
from timesformer_jax.training.recipe import Checkpointing, Optimizer, TrainConfig

__all__ = ["videos"]  # a fixture

STEPS = 8
SEQUENCES = 20
"""In one test. The long ones make 280 more."""

MESHES = ([], ["--mesh.fsdp", "2"], ["--mesh.fsdp", "4"], ["--mesh.frames", "2"], ["--mesh.tensor", "2"])

PLACES = ("step", "saving", "validation", "export")


@dataclass(frozen=True)
class Event:
    """One start of the job, and what happens to it.

    Attributes:
        kind: what happens.
        count: processes.
        mesh: how the devices share the work.
        victim: the process that it happens to.
        place: where.
        step: at which step; beyond the last nothing happens.
    """

    kind: str
    count: int
    mesh: int
    victim: int
    place: str
    step: int

    def before(self, index: int) -> str:
        """What befalls a process."""
        one = index == self.victim % self.count
        if self.kind == "kill all" or (self.kind == "kill one" and one):
            return f"mishaps.signal_at({self.place!r}, {self.step}, {int(signal.SIGKILL)})\n"
        if self.kind == "stop" and one:
            return f"mishaps.signal_at({self.place!r}, {self.step}, {int(signal.SIGTERM)})\n"
        return f"mishaps.disk_full_from({self.step})\n" if self.kind == "full disk" and one else ""

    def options(self, index: int) -> list[str]:
        """The options that differ from the recipe's."""
        one = index == self.victim % self.count
        changed = {
            "other rate": ["--optimizer.learning-rate", "0.5"],
            "other seed": ["--seed", "1"],
            "other interval": ["--checkpoints.every", str(self.step), "--checkpoints.keep", "3"],
            "unlike": ["--seed", "1"] if one and self.count > 1 else [],
        }
        return [*MESHES[self.mesh], *changed.get(self.kind, [])]


EVENTS = st.builds(
    Event,
    kind=st.sampled_from(
        [
            "kill one",
            "kill one",
            "kill all",
            "stop",
            "full disk",
            "other rate",
            "other seed",
            "other interval",
            "unlike",
        ]
    ),
    count=st.sampled_from([1, 2, 2, 4]),
    mesh=st.integers(0, len(MESHES) - 1),
    victim=st.integers(0, 3),
    place=st.sampled_from(PLACES),
    step=st.integers(1, STEPS + 1),
)
LAST = st.builds(
    Event,
    kind=st.just("nothing"),
    count=st.sampled_from([1, 1, 2]),
    mesh=st.integers(0, len(MESHES) - 1),
    victim=st.just(0),
    place=st.just("step"),
    step=st.just(0),
)

# With the true step sums depend on the mesh and on the processes, whose number stays the same.
TRUE_EVENTS = st.builds(
    Event,
    kind=st.sampled_from(["kill one", "kill all", "stop", "full disk"]),
    count=st.just(2),
    mesh=st.just(1),
    victim=st.integers(0, 1),
    place=st.sampled_from(PLACES),
    step=st.integers(1, STEPS),
)
UNDISTURBED = Event("nothing", 1, 0, 0, "step", 0)
TRUE_UNDISTURBED = Event("nothing", 2, 1, 0, "step", 0)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Generator[Zygote]:
    with zygote(tmp_path_factory.mktemp("logs"), tmp_path_factory.mktemp("compiled")) as found:
        yield found


@pytest.fixture(scope="module")
def config(videos: Path) -> TrainConfig:
    config = recipe(videos, steps=STEPS, accumulation=1, optimizer=Optimizer(learning_rate=0.01))
    config = dataclasses.replace(config, checkpoints=Checkpointing(every=3, keep=2, validate_every=2))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, augmentation=Augmentation()))


def happen(jobs: Zygote, config: TrainConfig, run: Path, event: Event, code: str = QUICK) -> list[Process]:
    command = ["train", "--output", str(run), *arguments(config)]
    before = [code + event.before(index) for index in range(event.count)]
    return start_job(jobs, event.count, lambda index: [*command, *event.options(index)], before.__getitem__)


@pytest.fixture(scope="module")
def undisturbed(jobs: Zygote, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    alone = happen(jobs, config, run, UNDISTURBED)
    assert codes(alone) == [0], alone[0].said
    return outcome(run)


def check(event: Event, run: Path, processes: list[Process], begun: bool, newest: int, finished: bool) -> None:
    """What must hold after an event.

    Args:
        event: it.
        run: the directory.
        processes: of the job, ended.
        begun: whether the directory was that of a run before.
        newest: the last checkpoint before.
        finished: whether the run had been exported before.
    """
    found, said = [process.code for process in processes], [process.said for process in processes]
    assert all("Traceback" not in text for text in said), said
    for process in processes:
        if process.code in (1, 2):
            assert process.sentence.startswith("error: "), said
    if newest and found[0] == 0 and not finished:
        assert f"going on after step {newest} of {STEPS}" in said[0], said
    assert max(steps_in(run / "checkpoints"), default=0) >= newest, said
    if event.kind == "unlike" and event.count > 1:
        assert set(found) == {2}, said
        assert all("seed is " in process.sentence for process in processes), said
        assert begun == run.exists(), said
    elif event.kind in ("other rate", "other seed") and begun:
        assert set(found) == {2}, said
        assert all("belongs to a run with another recipe" in process.sentence for process in processes), said
    elif event.kind in ("kill one", "kill all"):
        killed = [code == -9 for code in found]
        if not any(killed):  # it was over before
            assert set(found) == {0}, said
        for process in processes:
            assert process.code in (-9, 1) or not any(killed), said
            assert process.code != 1 or LOST in process.sentence, said
    elif event.kind == "full disk":
        assert len(set(found)) == 1, said
        assert found[0] in (0, 1), said
        assert found[0] == 0 or all(re.search("can't be written", process.sentence) for process in processes), said
    else:
        assert set(found) == {0}, said
        stopped = "stopped after step" in said[0]
        assert stopped != ("finished; the trained model is in" in said[0]), said
        assert event.kind == "stop" or not stopped, said
    if finished or "finished; the trained model" in said[0]:
        assert (run / "export").is_dir()


def survive(jobs: Zygote, config: TrainConfig, events: list[Event], expected: dict[str, bytes], code: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        for event in events:
            if event.kind in ("other rate", "other seed") and not (run / "train_config.json").exists():
                continue  # a new run, with its own recipe
            begun, finished = (run / "train_config.json").exists(), (run / "export").exists()
            newest = max(steps_in(run / "checkpoints"), default=0)
            processes = happen(jobs, config, run, event, code)
            codes(processes)
            check(event, run, processes, begun, newest, finished)
        assert steps_taken(run) == STEPS
        assert outcome(run) == expected


def sequences(
    jobs: Zygote,
    config: TrainConfig,
    undisturbed: dict[str, bytes],
    seed: int,
    *,
    count: int = SEQUENCES,
    events: st.SearchStrategy[Event] = EVENTS,
    last: st.SearchStrategy[Event] = LAST,
    code: str = QUICK,
) -> None:
    ran: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.lists(events, min_size=1, max_size=3), last)
    def survives(events: list[Event], last: Event) -> None:
        ran.append(events)
        survive(jobs, config, [*events, last], undisturbed, code)

    survives()
    assert len(ran) == count, json.dumps(len(ran))


@pytest.mark.slow
def test_twenty_sequences(jobs: Zygote, config: TrainConfig, undisturbed: dict[str, bytes]) -> None:
    sequences(jobs, config, undisturbed, 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 15))
def test_twenty_other_sequences(jobs: Zygote, config: TrainConfig, undisturbed: dict[str, bytes], seed: int) -> None:
    sequences(jobs, config, undisturbed, seed)


@pytest.mark.long
def test_sequences_with_the_true_model(jobs: Zygote, config: TrainConfig, tmp_path: Path) -> None:
    """Bit for bit, too, on the same mesh and number of processes."""
    assert codes(happen(jobs, config, tmp_path / "run", TRUE_UNDISTURBED, TRUE)) == [0, 0]
    last = st.just(TRUE_UNDISTURBED)
    expected = outcome(tmp_path / "run")
    sequences(jobs, config, expected, 0, count=8, events=TRUE_EVENTS, last=last, code=TRUE)
