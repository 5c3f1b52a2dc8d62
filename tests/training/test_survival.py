"""What a run lives through: kill -9, SIGTERM, a full disk, other numbers of devices. Real processes, really killed."""

import dataclasses
import json
import random
import resource
import signal
import time
from pathlib import Path

import pytest
from runs import (
    cache,
    finish,
    is_saving,
    kill,
    kill_while_saving,
    outcome,
    recipe,
    start,
    steps_taken,
    videos,
    wait_for,
)

from timesformer_jax.training.recipe import Checkpointing

__all__ = ["cache", "videos"]  # fixtures

STEPS = 24


@pytest.fixture(scope="module")
def undisturbed(videos: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(recipe(videos, steps=STEPS), run, cache))
    return run


def assert_same(run: Path, undisturbed: Path) -> None:
    found, expected = outcome(run), outcome(undisturbed)
    assert [json.loads(line)["step"] for line in found["metrics"].splitlines() if b"loss" in line] == [
        *range(1, STEPS + 1)
    ]
    for name in expected:
        assert found[name] == expected[name], name


def test_stopped_then_killed_then_finished(videos: Path, cache: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", recipe(videos, steps=STEPS)
    process = start(config, run, cache)
    assert wait_for(process, lambda: steps_taken(run) >= 5)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said = finish(process)
    assert time.monotonic() - asked < 15
    step = steps_taken(run)
    assert 5 <= step < STEPS
    assert f"stopped after step {step} of {STEPS}" in said
    assert not is_saving(run)
    assert max(int(path.name) for path in (run / "checkpoints").iterdir()) == step
    assert not (run / "export").exists()

    process = start(config, run, cache)
    assert kill_while_saving(process, run)

    said = finish(start(config, run, cache))
    assert "going on after step" in said
    assert not is_saving(run)
    assert_same(run, undisturbed)


@pytest.mark.long
def test_killed_twenty_five_times(videos: Path, cache: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", recipe(videos, steps=STEPS)
    chance = random.Random(0)
    kills = {"saving": 0, "anywhere": 0}
    while sum(kills.values()) < 25:
        # Killed processes must not get too far: the last one has something left to do.
        late = steps_taken(run) > STEPS - 12
        process = start(config, run, cache)
        if kills["saving"] < 12 and chance.random() < 0.6:
            assert kill_while_saving(process, run)
            kills["saving"] += 1
            continue
        begun = steps_taken(run)
        further = 0 if late else chance.choice([0, 0, 1, 2, 5])
        starts = len((run / "versions.jsonl").read_text().splitlines()) if (run / "versions.jsonl").exists() else 0

        def is_time(begun: int = begun, further: int = further, starts: int = starts) -> bool:
            versions = run / "versions.jsonl"
            if not versions.exists() or len(versions.read_text().splitlines()) <= starts:
                return False  # not at the first step yet
            return further == 0 or steps_taken(run) >= begun + further

        assert wait_for(process, is_time)
        kill(process)
        kills["anywhere"] += 1
    assert kills["saving"] >= 10
    finish(start(config, run, cache))
    assert_same(run, undisturbed)


@pytest.mark.long
def test_a_full_disk(videos: Path, cache: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", recipe(videos, steps=STEPS)
    process = start(config, run, cache)
    assert wait_for(process, lambda: steps_taken(run) >= 5)
    process.send_signal(signal.SIGTERM)
    finish(process)
    kept = max(int(path.name) for path in (run / "checkpoints").iterdir())

    # No file may grow beyond the metrics of one more checkpoint's steps: the parameters are larger.
    most = (run / "metrics.jsonl").stat().st_size + 4000
    process = start(config, run, cache, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert "can't be written" in said
    assert said.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said

    assert f"going on after step {kept} " in finish(start(config, run, cache))
    assert_same(run, undisturbed)


@pytest.mark.long
def test_other_numbers_of_devices(videos: Path, cache: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", recipe(videos, steps=STEPS)
    process = start(config, run, cache)
    assert wait_for(process, lambda: steps_taken(run) >= 5)
    process.send_signal(signal.SIGTERM)
    finish(process)
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    said = finish(start(config, run, cache, environment={"XLA_FLAGS": flags}))
    assert "going on after step" in said
    # The order of sums differs, and with it the last bits, but the data do not.
    found, expected = ([json.loads(line) for line in outcome(r)["metrics"].splitlines()] for r in (run, undisturbed))
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert ("loss" in one) == ("loss" in other)  # the others are of validations
        if "loss" in one:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    devices = [len(json.loads(line)["devices"]) for line in (run / "versions.jsonl").read_text().splitlines()]
    assert devices == [1, 2]


@pytest.mark.long
def test_no_time_for_a_first_checkpoint(videos: Path, cache: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = recipe(videos, steps=STEPS)
    rare = dataclasses.replace(config, checkpoints=Checkpointing(every=1000, validate_every=3))
    process = start(rare, run, cache)
    assert wait_for(process, lambda: steps_taken(run) >= 3)
    kill(process)
    finish(start(rare, run, cache))
    assert (run / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
