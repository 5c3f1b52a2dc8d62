"""A training job of several real processes: one is killed, the others end, and another number of them goes on."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runs import arguments, cache, finish, kill, make_videos, outcome, recipe, steps_taken, videos, wait_for
from safetensors.numpy import load_file

from timesformer_jax.checkpoints.training_run import steps_in
from timesformer_jax.support.distributed import LOST
from timesformer_jax.support.files import read_lines
from timesformer_jax.training.recipe import Checkpointing, TrainConfig

__all__ = ["cache", "make_videos", "videos"]  # fixtures

DEVICES = 4
STEPS = 30


def job(config: TrainConfig, run: Path, count: int, *more: str) -> list[subprocess.Popen[str]]:
    """`timesformer train` as so many processes."""
    return processes(count, ["train", "--output", str(run), *arguments(config), *more])


def processes(count: int, command: list[str]) -> list[subprocess.Popen[str]]:
    """A command as so many processes, which have four simulated devices together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "XLA_FLAGS": f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={DEVICES // count}",
    }
    command = [sys.executable, "-m", "timesformer_jax.cli", *command]
    several = ["--processes.coordinator", address, "--processes.count", str(count), "--processes.index"]
    return [
        subprocess.Popen(
            [*command, *([*several, str(index)] if count > 1 else [])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def in_double(config: TrainConfig) -> TrainConfig:
    """In double precision, so that sums in another order can't be taken for a mistake, nor a mistake for them."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float64"))


def kill_the_second(both: list[subprocess.Popen[str]], event: Callable[[], bool]) -> str:
    """Kills one of two processes at an event; what the other says of it, within a minute."""
    first, second = both
    try:
        assert wait_for(first, event)
        kill(second)
        start = time.monotonic()
        _, said = first.communicate(timeout=60)
    finally:
        first.kill()
    assert time.monotonic() - start < 60
    assert first.returncode != 0
    assert LOST in said
    return said


def starts(run: Path) -> list[str]:
    """The lines that each start of a run has left, from when it takes its first step."""
    file = run / "versions.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def assert_undisturbed(run: Path, alone: Path, steps: int) -> None:
    expected, found = (load_file(path / "export" / "model.safetensors") for path in (alone, run))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-11, err_msg=name)
    noted = [line.split(b",")[0] for line in outcome(run)["metrics"].splitlines() if b"loss" in line]
    assert noted == [f'{{"step": {step}'.encode() for step in range(1, steps + 1)]


@pytest.mark.slow
def test_the_life_of_a_job(videos: Path, tmp_path: Path) -> None:
    """Two processes, of which one is killed; two again, asked to stop; one to the end."""
    steps = 24
    config = in_double(recipe(videos, steps=steps, checkpoints=Checkpointing(every=4, validate_every=100)))
    (alone,) = job(config, tmp_path / "alone", 1, "--mesh.fsdp", "2")
    finish(alone)

    run = tmp_path / "run"
    kill_the_second(
        job(config, run, 2, "--mesh.fsdp", "2"), lambda: bool(steps_in(run / "checkpoints")) and steps_taken(run) >= 6
    )
    saved = steps_in(run / "checkpoints")[-1]
    assert saved < steps

    first, second = job(config, run, 2, "--mesh.fsdp", "2")
    assert wait_for(first, lambda: len(starts(run)) == 2 and steps_taken(run) > saved)
    second.send_signal(signal.SIGTERM)
    said = [finish(first), finish(second)]
    assert f"going on after step {saved} " in said[0]
    assert "stopped after step " in said[0]
    assert "step" not in said[1]  # the first alone tells
    assert steps_in(run / "checkpoints")[-1] < steps

    (single,) = job(config, run, 1, "--mesh.frames", "2")
    assert "going on after step " in finish(single)
    assert_undisturbed(run, tmp_path / "alone", steps)


@pytest.mark.slow
def test_two_processes_evaluate_every_video_once(videos: Path, tmp_path: Path) -> None:
    """Six videos in batches of four."""
    (alone,) = job(recipe(videos, steps=2), tmp_path / "run", 1)
    finish(alone)
    command = ["evaluate", str(tmp_path / "run"), "--data.validation", str(videos / "validation"), "--batch-size", "4"]
    command += ["--data.workers", "0", "--mesh.frames", "2"]
    (single,) = processes(1, [*command, "--output", str(tmp_path / "one")])
    finish(single)
    said = [process.communicate(timeout=300) for process in processes(2, [*command, "--output", str(tmp_path / "two")])]
    assert "videos               6" in said[0][0], said
    assert not [text for text in said[1] if "videos" in text or "step" in text or "loading" in text]
    one, two = (read_lines(tmp_path / name / "predictions.jsonl") for name in ("one", "two"))
    assert [line["id"] for line in two] == [line["id"] for line in one] == list(range(6))
    for ours, theirs in zip(two, one, strict=True):
        assert ours["top"] == theirs["top"]
        np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_killed_job_goes_on_with_another_number_of_processes(videos: Path, tmp_path: Path) -> None:
    config = in_double(recipe(videos, steps=STEPS))
    (alone,) = job(config, tmp_path / "alone", 1, "--mesh.fsdp", "2")
    finish(alone)

    run = tmp_path / "run"
    kill_the_second(job(config, run, 2, "--mesh.fsdp", "2"), lambda: steps_taken(run) >= 9)
    assert steps_taken(run) < STEPS

    said = [finish(process) for process in job(config, run, 4, "--mesh.frames", "2")]
    assert "going on after step " in said[0]
    assert f"finished; the trained model is in {run / 'export'}" in said[0]
    assert not any("step" in text for text in said[1:])
    assert_undisturbed(run, tmp_path / "alone", STEPS)
