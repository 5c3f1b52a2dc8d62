"""A training job of several real processes: one is killed, the others end, and another number of them goes on."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import arguments, cache, finish, kill, make_videos, outcome, recipe, steps_taken, videos, wait_for
from safetensors.numpy import load_file

from timesformer_jax.distributed import LOST
from timesformer_jax.training.recipe import TrainConfig

__all__ = ["cache", "make_videos", "videos"]  # fixtures

DEVICES = 4
STEPS = 30


def job(config: TrainConfig, run: Path, count: int, *more: str) -> list[subprocess.Popen[str]]:
    """`timesformer train` as so many processes, which have four simulated devices together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "XLA_FLAGS": f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={DEVICES // count}",
    }
    command = [sys.executable, "-m", "timesformer_jax.cli", "train", "--output", str(run), *arguments(config), *more]
    several = ["--processes.coordinator", address, "--processes.count", str(count), "--processes.index"]
    return [
        subprocess.Popen(
            [*command, *([*several, str(index)] if count > 1 else [])],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


@pytest.mark.long
def test_a_killed_job_goes_on_with_another_number_of_processes(videos: Path, tmp_path: Path) -> None:
    config = recipe(videos, steps=STEPS)
    # In double precision, so that sums in another order can't be taken for a mistake, nor a mistake for them.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float64"))
    (alone,) = job(config, tmp_path / "alone", 1, "--mesh.fsdp", "2")
    finish(alone)

    run = tmp_path / "run"
    first, second = job(config, run, 2, "--mesh.fsdp", "2")
    try:
        assert wait_for(first, lambda: steps_taken(run) >= 9)
        kill(second)
        start = time.monotonic()
        _, said = first.communicate(timeout=60)
    finally:
        first.kill()
    assert time.monotonic() - start < 60
    assert first.returncode != 0
    assert LOST in said
    assert steps_taken(run) < STEPS

    said = [finish(process) for process in job(config, run, 4, "--mesh.frames", "2")]
    assert "going on after step " in said[0]
    assert f"finished; the trained model is in {run / 'export'}" in said[0]
    assert not any("going on" in text or "step " in text.replace("training step", "") for text in said[1:])

    expected, found = (load_file(path / "export" / "model.safetensors") for path in (tmp_path / "alone", run))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-11, err_msg=name)
    steps = [line.split(b",")[0] for line in outcome(run)["metrics"].splitlines() if b"loss" in line]
    assert steps == [f'{{"step": {step}'.encode() for step in range(1, STEPS + 1)]
