"""Several processes, on one machine or many, as one job: JAX's own runtime, started from options or the environment.

    with joined(ProcessOptions()):          # Cloud TPU and Slurm are found; anything else runs alone
        train(...)

A job lives and dies as a whole. When one of its processes ends, the others notice within the heartbeat's time (a
collective operation may notice earlier), say so and end; the same command goes on from the last checkpoint.
"""

import atexit
import contextlib
import dataclasses
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError, TimesformerError, TrainingError, first_line
from .progress import say, show_progress

HEARTBEAT_SECONDS = 30
"""A process that was silent for so long counts as dead. JAX's own 100 would hold the others for minutes."""

LOST = (
    "another process of the job has ended or can't be reached (its own log says why); "
    "start all of them again: training goes on from its last checkpoint."
)

_COMMUNICATION = re.compile(
    r"\bGloo\b|\bNCCL\b|coordination service|heartbeat|^(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): "
)


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """The processes of the job.

    Attributes:
        cluster: what tells each process about the others: "auto" looks for Slurm (a step of several tasks) and Cloud
            TPU; "none" runs alone, whatever there is. Not needed with a coordinator.
        coordinator: address:port of process 0, where the cluster does not tell it.
        count: how many processes there are, with a coordinator.
        index: which of them this is, from 0, with a coordinator.
    """

    cluster: Literal["auto", "slurm", "tpu", "none"] = "auto"
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.coordinator, self.count, self.index)]
        if any(given) and not all(given):
            raise ConfigError("processes.coordinator, processes.count and processes.index belong together; give all.")
        if self.coordinator is None or self.count is None or self.index is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"processes.coordinator is {self.coordinator!r}; give address:port, such as node-0:1234.")
        if not 0 <= self.index < self.count:
            raise ConfigError(f"processes.index is {self.index}, but counts from 0 to processes.count - 1.")


@contextlib.contextmanager
def joined(options: ProcessOptions | None = None) -> Generator[None]:
    """Joins this process to the others of its job, before anything else uses JAX. Where there are none, it runs alone.

    Raises:
        ConfigError: the processes can't be found or joined.
        TrainingError: another process was lost.
    """
    settings = _settings(options or ProcessOptions())
    if settings is None:
        yield
        return
    import jax

    # Read when the backend starts; it matters on CPUs alone, which can't work together without it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with _report_sudden_end() as done:
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS, **settings)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"the processes of the job can't be joined: {first_line(error)[:200]}.") from error
        try:
            yield
        except BaseException as error:
            done()
            if jax.process_count() == 1:
                raise
            # JAX would wait at its exit for processes that wait for this one.
            atexit.register(_leave, _exit_code(error))
            if _is_of_communication(error):
                raise TrainingError(f"{LOST} ({first_line(error)[:200]})") from error
            raise
        jax.distributed.shutdown()
        done()


def is_first() -> bool:
    """Whether this process is the one that writes logs."""
    import jax

    # Alone, no device is asked for: to read lists, or to pack videos, none is needed, and another process may hold it.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def announce(message: str) -> None:
    """Calls `say` once in the whole job."""
    if is_first():
        say(message)


@contextlib.contextmanager
def announce_progress(description: str) -> Generator[None]:
    """Calls `show_progress` once in the whole job."""
    with show_progress(description) if is_first() else contextlib.nullcontext():
        yield


def in_all(fact: bool) -> bool:
    """Whether a fact is true in every process; all have to ask."""
    import jax

    if jax.process_count() == 1:
        return fact
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(fact))))


def from_first(number: int) -> int:
    """Gives all processes the number of the first."""
    import jax

    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(number))


def wait_for_all(name: str) -> None:
    """Waits until every process has called this.

    Args:
        name: of the place in the program, the same in all.
    """
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _settings(options: ProcessOptions) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`; None where this process is alone."""
    if options.coordinator is not None:
        return {
            "coordinator_address": options.coordinator,
            "num_processes": options.count,
            "process_id": options.index,
            "cluster_detection_method": "deactivate",
        }
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if options.cluster == "slurm" or (options.cluster == "auto" and tasks > 1):
        if "SLURM_STEP_NODELIST" not in os.environ:
            raise ConfigError("processes.cluster is slurm, but this is no task of a Slurm step; start it by srun.")
        return {"cluster_detection_method": "slurm"}
    if options.cluster == "tpu" or (options.cluster == "auto" and _on_tpu()):
        return {}  # by libtpu's own metadata, also for a single machine
    return None


def _on_tpu() -> bool:
    """Whether this machine has TPU chips that the job uses."""
    if os.environ.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return False
    if len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:  # set by GKE
        return True
    chips = itertools.chain(Path("/dev").glob("accel[0-9]*"), Path("/dev/vfio").glob("[0-9]*"))
    return importlib.util.find_spec("libtpu") is not None and any(chips)


@contextlib.contextmanager
def _report_sudden_end() -> Generator[Any]:
    """Starts a helper process that reports if JAX's runtime ends this one, which no handler would see."""
    message = f"error: this process was ended from outside Python; where nobody here did, {LOST}\n"
    code = f"import sys; sys.stdin.read() or sys.stderr.write({message!r})"
    helper = subprocess.Popen([sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, start_new_session=True)
    told = False

    def done() -> None:
        nonlocal told
        if not told:
            told = True
            helper.communicate(b"done")

    try:
        yield done
    finally:
        done()


def _is_of_communication(error: BaseException) -> bool:
    """Whether an error, or one that caused it, is of the communication with other processes. JAX has no type for it."""
    while not _COMMUNICATION.search(str(error)):
        if error.__cause__ is None:
            return False
        error = error.__cause__
    return True


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, TimesformerError) else 1


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
