"""Joining processes: what is asked for, what the surroundings tell, and how a job ends."""

import socket
import subprocess
import sys

import pytest

from timesformer_jax.errors import ConfigError
from timesformer_jax.support.distributed import LOST, ProcessOptions, joined

# Two processes that agree on numbers, until one of them ends as it is told.
PROGRAM = """
import os, sys, time
from timesformer_jax.support import distributed
from timesformer_jax.cli import run_command
from timesformer_jax.errors import DataError

distributed.HEARTBEAT_SECONDS = 10
address, index, ending = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def command():
    with distributed.joined(distributed.ProcessOptions(coordinator=address, count=2, index=index)):
        assert distributed.from_first(index + 7) == 7
        distributed.announce("both are here")
        distributed.wait_for_all("joined")
        if index == 1 and ending == "killed":
            os.kill(os.getpid(), 9)
        if index == 1 and ending == "failed":
            raise DataError("the videos are bad.")
        if ending == "idle":
            time.sleep(1000) if index == 0 else os.kill(os.getpid(), 9)
        for _ in range(1000 if ending != "well" else 1):
            distributed.wait_for_all("step")
            time.sleep(0.01)
    return 0

sys.exit(run_command(command))
"""


def run_two(ending: str) -> list[tuple[int, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, address, str(i), ending], stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def test_two_processes_work_together() -> None:
    (first, said_first), (second, said_second) = run_two("well")
    assert (first, second) == (0, 0), said_first + said_second
    assert "both are here" in said_first
    assert "both are here" not in said_second
    assert LOST not in said_first + said_second


@pytest.mark.long
@pytest.mark.parametrize("ending", ["killed", "idle"])
def test_one_of_two_is_killed(ending: str) -> None:
    (survivor, said), (killed, _) = run_two(ending)
    assert killed == -9
    assert survivor != 0
    assert said.splitlines()[-1].startswith("error: ")
    assert LOST in said


@pytest.mark.long
def test_one_of_two_fails() -> None:
    (survivor, said), (failed, reason) = run_two("failed")
    assert failed == 2
    assert reason.splitlines()[-1] == "error: the videos are bad."
    assert survivor != 0
    assert LOST in said


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="belong together"):
        ProcessOptions(coordinator="node-0:1234")
    with pytest.raises(ConfigError, match="give address:port"):
        ProcessOptions(coordinator="node-0", count=2, index=0)
    with pytest.raises(ConfigError, match=r"processes.index is 2"):
        ProcessOptions(coordinator="node-0:1234", count=2, index=2)


def test_alone_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.distributed.initialize", lambda **_: pytest.fail("joined"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    with joined():
        pass
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with joined(ProcessOptions(cluster="none")):
        pass
    monkeypatch.delenv("SLURM_STEP_NODELIST", raising=False)
    with pytest.raises(ConfigError, match="srun"), joined():
        pass


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "node[0-1]"}, {"cluster_detection_method": "slurm"}),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "tpu,cpu"}, {}),
    ],
)
def test_the_surroundings_tell(
    environment: dict[str, str], found: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_STEP_NUM_TASKS", "TPU_WORKER_HOSTNAMES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked: list[dict[str, object]] = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **settings: asked.append(settings))
    monkeypatch.setattr("jax.distributed.shutdown", lambda: None)
    with joined():
        pass
    assert asked == [{"heartbeat_timeout_seconds": 30, "initialization_timeout": 360, **found}]
