"""How a job of several real processes ends: started unlike, with a full disk, killed, stopped, kept waiting.

The training step is that of stub_model.py, whose whole numbers are the same on every mesh, so that what a run comes to
after any of this can be compared bit for bit.
"""

import dataclasses
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from jobs import Process, Zygote, codes, start_job, wait_until, zygote
from runs import arguments, outcome, recipe, steps_taken, videos
from safetensors.numpy import load_file, save_file

from timesformer_jax.checkpoints.training_run import steps_in
from timesformer_jax.data.config import Augmentation
from timesformer_jax.support.agreement import differences
from timesformer_jax.support.distributed import LOST
from timesformer_jax.training.recipe import Optimizer, TrainConfig

__all__ = ["videos"]  # a fixture

STEPS = 12
TRUE = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import mishaps\n"
    "from timesformer_jax.support import distributed as d; d.HEARTBEAT_SECONDS = 10\n"
)
QUICK = TRUE + "import stub_model\n"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Generator[Zygote]:
    with zygote(tmp_path_factory.mktemp("logs"), tmp_path_factory.mktemp("compiled")) as found:
        yield found


def tiny(videos: Path, **changes: Any) -> TrainConfig:
    config = recipe(videos, steps=STEPS, accumulation=1, optimizer=Optimizer(learning_rate=0.01), **changes)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, augmentation=Augmentation()))


def train(
    jobs: Zygote, run: Path, config: TrainConfig, count: int, *more: str, before: Callable[[int], str] = lambda i: QUICK
) -> list[Process]:
    return start_job(jobs, count, ["train", "--output", str(run), *arguments(config), *more], before)


@pytest.fixture(scope="module")
def undisturbed(jobs: Zygote, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    (alone,) = train(jobs, run, tiny(videos), 1)
    assert codes([alone]) == [0], alone.said
    return outcome(run)


def assert_goes_on(jobs: Zygote, run: Path, config: TrainConfig, undisturbed: dict[str, bytes]) -> None:
    """The run ends as an undisturbed one, bit for bit, on another mesh."""
    (alone,) = train(jobs, run, config, 1, "--mesh.fsdp", "2")
    assert codes([alone]) == [0], alone.said
    assert outcome(run) == undisturbed


# --- Started unlike.


def test_differences_are_told_with_their_values_and_processes() -> None:
    same = {"a": "1", "b": "2"}
    assert differences([same, same]) == {}
    assert differences([same, {"a": "1", "b": "3"}, same]) == {"b": "b is 2 in processes 0 and 2 and 3 in process 1"}
    assert differences([same, {"b": "2"}]) == {"a": "a is 1 in process 0 and nothing in process 1"}
    assert differences([{"a": "1\nfrom x"}, {"a": "1\nfrom y"}]) == {}
    assert differences([{"a": "1\nfrom x"}, {"a": "2\nfrom y"}]) == {
        "a": "a is 1 (from x) in process 0 and 2 (from y) in process 1"
    }


def other_list(videos: Path, folder: Path, change: Callable[[list[str]], list[str]]) -> tuple[str, str]:
    """Two lists of the same videos, the second changed."""
    lines = [f"{path},{path.parent.name}" for path in sorted((videos / "train").rglob("*.mp4"))]
    for name, own in (("first.csv", lines), ("second.csv", change(lines))):
        (folder / name).write_text("\n".join(own) + "\n")
    return str(folder / "first.csv"), str(folder / "second.csv")


UNLIKE: dict[str, tuple[list[str], str]] = {
    "rate": (
        ["--optimizer.learning-rate", "0.5"],
        r"optimizer.learning_rate is 0.01 in process 0 and 0.5 in process 1",
    ),
    "seed": (["--seed", "3"], r"seed is 0 in process 0 and 3 in process 1"),
    "batch": (["--batch-size", "8"], r"batch_size is 4 in process 0 and 8 in process 1"),
    "interval": (["--checkpoints.every", "3"], r"checkpoints.every is 4 in process 0 and 3 in process 1"),
    "mesh": (["--mesh.frames", "2"], r"mesh.frames is 1 in process 0 and 2 in process 1"),
    "no validation": (
        ["--data.validation", "None"],
        r"--data.validation is given \(.*\) in process 0 and not given in p",
    ),
    "folder": ([], r"the number of videos of --data.train is 12 in process 0 and 11 in process 1"),
    "shorter": ([], r"the number of videos of --data.train is 12 in process 0 and 11 in process 1"),
    "flipped": (
        [],
        r"the labels of --data.train: the first that differs, number 1, is \S+ 0/0.mp4 with the label 0 in process 0 "
        r"and \S+ 0/0.mp4 with the label 1 in process 1",
    ),
    "order": (
        [],
        r"the order of --data.train: the first that differs, number 1, is \S+ 0/0.mp4 in process 0 and \S+ 0/1.mp4 in ",
    ),
    "other video": (
        [],
        r"the videos of --data.train: the first that differs, number 12, is \S+ 2/3.mp4 in process 0 and \S+ 2/4.mp4 ",
    ),
    "weights": ([], r"the digest of the weights at the start is \w+ \(from the seed 0\) in process 0 and \w+ \("),
    "model": ([], r"what the run directory holds is no model yet in process 0 and a model in process 1"),
    "code": ([], r"the version of optax is [\d.]+ in process 0 and 0.0.1 in process 1"),
    "directory": ([], r"is not the directory that the first process of the job sees there"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", UNLIKE)
def test_processes_that_were_started_unlike(what: str, jobs: Zygote, videos: Path, tmp_path: Path) -> None:
    """All end before the first step, with 2 and the difference; nothing is left that the right command stumbles on."""
    run, config, (second, expected) = tmp_path / "run", tiny(videos), UNLIKE[what]
    train_of = [str(videos / "train")] * 2
    code = ["", ""]
    output = [str(run), str(run)]
    if what == "folder":
        shutil.copytree(videos / "train", tmp_path / "copy")
        (tmp_path / "copy" / "class 1" / "2.mp4").unlink()
        train_of[1] = str(tmp_path / "copy")
    elif what in ("shorter", "flipped", "order", "other video"):
        change: dict[str, Callable[[list[str]], list[str]]] = {
            "shorter": lambda lines: lines[:-1],
            "flipped": lambda lines: [f"{line[:-1]}{'120'[int(line[-1])]}" for line in lines],
            "order": lambda lines: [*lines[1:], lines[0]],
            "other video": lambda lines: [*lines[:-1], lines[-1].replace("3.mp4", "4.mp4")],
        }
        train_of = list(other_list(videos, tmp_path, change[what]))
    elif what == "weights":
        code[1] = (
            "from timesformer_jax.training import job\nmade = job.start_from_recipe\n"
            "def other(*a):\n    start = made(*a); start.params['classifier']['bias'][1] += 1; return start\n"
            "job.start_from_recipe = other\n"
        )
    elif what == "model":
        code[1] = (
            "from timesformer_jax.training import job\n"
            "job.start_from_directory = lambda run, options: job.start_from_recipe(options, ['x'], 0)\n"
        )
    elif what == "code":
        code[1] = (
            "from timesformer_jax.support import agreement\nreal = agreement.version_of\n"
            "agreement.version_of = lambda name: '0.0.1' if name == 'optax' else real(name)\n"
        )
    elif what == "directory":
        output[1] = str(tmp_path / "elsewhere")
        code[1] = "from timesformer_jax.training import run_directory as r; r._SLOWEST_SHARING = 0.5\n"

    def command(index: int) -> list[str]:
        own = dataclasses.replace(config, data=dataclasses.replace(config.data, train=train_of[index]))
        return ["train", "--output", output[index], *arguments(own), *(second if index else [])]

    both = start_job(jobs, 2, command, lambda index: QUICK + code[index])
    found = codes(both)
    assert found == [2, 2], [process.said for process in both]
    for process in both:
        assert re.search(expected, process.sentence), process.said
        assert process.sentence.startswith("error: ")
        assert "Traceback" not in process.said
    assert not steps_in(run / "checkpoints")
    assert steps_taken(run) == 0
    assert {path.name for path in run.glob("*")} <= {".lock"}


@pytest.mark.slow
def test_the_checkpoint_to_start_from_may_be_elsewhere_but_not_another(
    jobs: Zygote, videos: Path, tmp_path: Path
) -> None:
    (alone,) = train(jobs, tmp_path / "earlier", dataclasses.replace(tiny(videos), steps=1), 1)
    assert codes([alone]) == [0], alone.said
    for name in ("first", "same", "other"):
        shutil.copytree(tmp_path / "earlier" / "export", tmp_path / name)
    weights = load_file(tmp_path / "first" / "model.safetensors")
    weights["classifier.bias"][1] += 1
    save_file(weights, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    read = "from timesformer_jax.training import initial_model as i, job\nread = i.start_from_recipe\n"
    before = f"{TRUE}{read}{QUICK}job.start_from_recipe = read\n"
    for second, code in (("other", 2), ("same", 0)):
        config, run = dataclasses.replace(tiny(videos), steps=1), tmp_path / f"run {second}"

        def command(index: int, config: TrainConfig = config, run: Path = run, second: str = second) -> list[str]:
            checkpoint = str(tmp_path / (second if index else "first"))
            own = dataclasses.replace(config, model=dataclasses.replace(config.model, checkpoint=checkpoint))
            return ["train", "--output", str(run), *arguments(own)]

        both = start_job(jobs, 2, command, lambda index: before)
        assert codes(both) == [code, code], [process.said for process in both]
        for process in both if code else ():
            of = r"\w+ \(from .*/{}\) in process"
            found = rf"the digest of the weights at the start is {of.format('first')} 0 and {of.format('other')}"
            assert re.search(found, process.sentence), process.said


@pytest.mark.slow
def test_evaluations_that_were_started_unlike(jobs: Zygote, videos: Path, tmp_path: Path) -> None:
    (alone,) = train(jobs, tmp_path / "run", tiny(videos), 1)
    assert codes([alone]) == [0], alone.said
    command = [
        "evaluate",
        str(tmp_path / "run"),
        "--data.validation",
        str(videos / "validation"),
        "--data.workers",
        "0",
    ]
    for more, expected in (
        (["--batch-size", "4"], "batch_size is 8 in process 0 and 4 in process 1"),
        (["--crops", "1"], "crops is 3 in process 0 and 1 in process 1"),
        (
            ["--data.validation", str(videos / "train")],
            "the number of videos of --data.validation is 6 in process 0 and",
        ),
    ):
        both = start_job(jobs, 2, lambda i, more=more: [*command, *(more if i else [])], lambda i: QUICK)
        assert codes(both) == [2, 2], [process.said for process in both]
        for process in both:
            assert expected in process.sentence


# --- Ended in the middle.

FULL = "mishaps.disk_full_from(8)\n"


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_process_has_no_room_for_its_checkpoint(
    victim: int, jobs: Zygote, videos: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    run, config = tmp_path / "run", tiny(videos)
    config = dataclasses.replace(config, checkpoints=dataclasses.replace(config.checkpoints, every=4))
    begun = time.monotonic()
    both = train(jobs, run, config, 2, "--mesh.fsdp", "4", before=lambda i: QUICK + (FULL if i == victim else ""))
    assert codes(both) == [1, 1], [process.said for process in both]
    assert time.monotonic() - begun < 100
    failed, other = both[victim], both[1 - victim]
    assert re.search(r"error: .*: .*checkpoint.* can't be written \(", failed.sentence), failed.said
    assert other.sentence == failed.sentence.replace("error: ", f"error: in process {victim}: ", 1)
    assert steps_in(run / "checkpoints") == [4]
    assert_goes_on(jobs, run, config, undisturbed)


DEATHS = {"reading": 6, "step": 6, "validation": 0, "export": 0, "saving": 8}
"""Where, and at which step."""


@pytest.mark.parametrize(
    ("victim", "where"),
    [
        pytest.param(victim, where, marks=pytest.mark.slow if (number + victim) % 2 else pytest.mark.long)
        for number, where in enumerate(DEATHS)
        for victim in (0, 1)
    ],
)
def test_a_process_is_killed(
    victim: int, where: str, jobs: Zygote, videos: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    run, config = tmp_path / "run", tiny(videos)
    strike = f"mishaps.signal_at({where!r}, {DEATHS[where]}, {int(signal.SIGKILL)})\n"
    both = train(jobs, run, config, 2, before=lambda i: QUICK + (strike if i == victim else ""))
    assert wait_until(lambda: both[victim].code is not None, [])
    assert both[victim].code == -9, both[victim].said
    killed = time.monotonic()
    found = codes(both)
    assert time.monotonic() - killed < 60
    assert found[1 - victim] == 1, both[1 - victim].said
    assert LOST in both[1 - victim].sentence
    assert_goes_on(jobs, run, config, undisturbed)


# --- Stopped.


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_validation(
    number: int, jobs: Zygote, videos: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Of a job of two, of which one is asked: both end with 0 before the validation has, which is made up for."""
    run, config = tmp_path / "run", tiny(videos)
    slowed = f"mishaps.slow('training.job.predict_batch', 4, {str(tmp_path / 'begun')!r})\n"
    both = train(jobs, run, config, 2, before=lambda i: QUICK + slowed)
    assert wait_until((tmp_path / "begun").exists, both)
    both[1].signal(number)
    assert codes(both) == [0, 0], [process.said for process in both]
    assert "stopped after step 9 of 12" in both[0].said
    assert b"validation" not in (run / "metrics.jsonl").read_bytes()
    assert_goes_on(jobs, run, config, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_stop_in_the_export(
    count: int, jobs: Zygote, videos: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """The export is finished; it is short, and all else is done."""
    run, config = tmp_path / "run", tiny(videos)
    slowed = f"mishaps.slow('training.loop.whole', 2, {str(tmp_path / 'begun')!r})\n"
    processes = train(jobs, run, config, count, before=lambda i: QUICK + slowed)
    assert wait_until((tmp_path / "begun").exists, processes)
    processes[-1].signal(signal.SIGTERM)
    assert codes(processes) == [0] * count, [process.said for process in processes]
    assert "finished; the trained model is in" in processes[0].said
    assert outcome(run) == undisturbed


# --- Kept waiting.


@pytest.mark.slow
def test_one_of_four_is_a_hundred_times_slower(
    jobs: Zygote, videos: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """What it does beside computing takes it seconds, once longer than a collective waits at its first use."""
    run, config = tmp_path / "run", tiny(videos)
    slow = (
        "mishaps.slow('training.loop.make_job', 35); mishaps.slow('training.job.Job.place', 0.5)\n"
        "mishaps.slow('training.job.EvaluationBatches', 3)\n"
    )
    four = train(jobs, run, config, 4, before=lambda i: QUICK + (slow if i == 3 else ""))
    assert codes(four) == [0, 0, 0, 0], [process.said for process in four]
    assert outcome(run) == undisturbed


@pytest.mark.slow
def test_a_coordinator_that_is_not_there_or_late(jobs: Zygote, videos: Path, tmp_path: Path) -> None:
    config = tiny(videos)
    hurried = QUICK + "d.JOIN_SECONDS = 5\n"
    for absent, expected in (
        (
            0,
            r"error: nothing answers at 127.0.0.1:\d+, where process 0 of the job should be: this process has ",
        ),
        (1, r"error: not all processes of the job have come: this process has waited for 5 seconds; start all of them"),
    ):
        both = train(
            jobs,
            tmp_path / "run",
            config,
            2,
            before=lambda i, absent=absent: "import os; os._exit(9)" if i == absent else hurried,
        )
        found = codes(both)
        assert found[1 - absent] == 2, both[1 - absent].said
        assert re.match(expected, both[1 - absent].sentence), both[1 - absent].said
        assert not (tmp_path / "run").exists()
    late = train(
        jobs,
        tmp_path / "run",
        dataclasses.replace(config, steps=2),
        2,
        before=lambda i: QUICK + ("import time; time.sleep(12)\n" if i == 0 else ""),
    )
    assert codes(late) == [0, 0], [process.said for process in late]
    assert "waiting for the other processes of the job, 300 seconds at most" in late[1].said


# --- Clocks and caches.


@pytest.mark.slow
def test_a_clock_that_goes_back(jobs: Zygote, videos: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """A year, in the middle of a run, and again when it goes on: nothing is ordered by the time of day."""
    run, config = tmp_path / "run", tiny(videos)
    back = (
        "import time\nreal, real_ns = time.time, time.time_ns\n"
        "def go_back(years):\n"
        "    time.time = lambda: real() - years * 3.15e7; time.time_ns = lambda: real_ns() - int(years * 3.15e16)\n"
        "mishaps.before('training.step_log.StepLog.read', lambda _, step, *rest: step == 5 and go_back(1))\n"
    )
    (alone,) = train(jobs, run, config, 1, before=lambda i: QUICK + back)
    assert wait_until(lambda: 8 in steps_in(run / "checkpoints"), [alone])
    alone.signal(signal.SIGTERM)
    assert codes([alone]) == [0], alone.said
    for path in (run / "checkpoints").rglob("*"):
        os.utime(path, (time.time() + 3e7, time.time() + 3e7))
    last = max(steps_in(run / "checkpoints"))
    (alone,) = train(jobs, run, config, 1, before=lambda i: QUICK + back + "go_back(2)\n")
    assert codes([alone]) == [0], alone.said
    assert f"going on after step {last} " in alone.said or last == STEPS
    assert outcome(run) == undisturbed
