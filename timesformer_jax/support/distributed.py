"""Several processes, on one machine or many, as one job: JAX's own runtime, started from options or the environment.

    with joined(ProcessOptions()):          # Cloud TPU and Slurm are found; anything else runs alone
        train(...)

A job lives and dies as a whole. When one of its processes fails, the others say so at once and end; when one dies, they
notice within the heartbeat's time (a collective operation may notice earlier). The same command goes on from the last
checkpoint.
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
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError, TrainingError, ending, first_line
from .progress import say, show_progress
from .watching import GRACE_SECONDS, LOST, Ending, Watch, answers, patient_abort

HEARTBEAT_SECONDS = 30
"""A process that was silent for so long counts as dead. JAX's own 100 would hold the others for minutes."""

JOIN_SECONDS = 300
"""So long the processes wait for each other at the start of the job."""

SLOWEST_SECONDS = 1800
"""So long they wait for the slowest of them at each place where all have to come before they go on."""

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
    with _report_sudden_end() as done, patient_abort():
        try:
            with _limited(settings.get("coordinator_address"), done):
                jax.distributed.initialize(
                    heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                    initialization_timeout=JOIN_SECONDS + 60,  # then JAX would abort the process, without a sentence
                    **settings,
                )
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"the processes of the job can't be joined: {first_line(error)[:200]}.") from error
        watch = None
        try:
            if jax.process_count() > 1:
                client, address = _coordinator()
                watch = Watch(client, address, jax.process_index(), jax.process_count(), done)
                watch.start()
                _watches.append(watch)
                in_all(True)  # the first collective waits half a minute for the slowest, and no longer
            yield
            wait_for_all("the end of the job")
        except BaseException as error:
            done()
            if watch is None:
                raise
            _watches.clear()
            told = _told(error, watch)
            code = 130 if isinstance(error, KeyboardInterrupt) else ending(told)[1]
            # JAX would wait at its exit for processes that wait for this one, as threads of Orbax may do before.
            atexit.register(watch.leave, code)
            threading.Thread(target=_leave_late, args=(watch, code), daemon=True).start()
            if told is error:
                raise
            raise told from error
        if watch is not None:
            _watches.clear()
            watch.stop()
        jax.distributed.shutdown()
        done()
        if watch is not None:
            watch.join()


_watches: list[Watch] = []
"""That of the job which this process has joined."""


def fail(error: Exception) -> None:
    """Ends the job with an error, where the main threads may wait for each other; a lone process does nothing.

    Args:
        error: of this process; one of the communication with others is their affair.
    """
    sentence, code = ending(error)
    if _watches and sentence is not None and not _is_of_communication(error):
        _watches[0].end_all(Ending(_watches[0].index, code, sentence))


def _told(error: BaseException, watch: Watch) -> BaseException:
    """Tells the others of an error in this process; the error that it is to raise, for theirs may be the cause."""
    index = watch.index
    if not _is_of_communication(error):
        sentence, code = ending(error)
        own = Ending(index, min(code, 2), sentence or f"{type(error).__name__}: {first_line(error)}")
        first = watch.tell(own)
        if first.process != index or first == own:
            return error
        # Another thread of this process has failed before, and that is what the others say.
    else:
        lost = Ending(index, 1, f"{LOST} ({first_line(error)[:200]})")
        first = watch.heard(GRACE_SECONDS) or lost
        first = watch.tell(first) if first is lost else first
    return (ConfigError if first.code == 2 else TrainingError)(first.told_by(index))


def _leave_late(watch: Watch, code: int) -> None:
    """Ends the process some seconds after its main thread, where other threads don't."""
    threading.main_thread().join()
    time.sleep(2 * GRACE_SECONDS)
    watch.leave(code)


@contextlib.contextmanager
def _limited(address: str | None, done: Callable[[], None]) -> Generator[None]:
    """Ends this process if the others of the job don't come in time; JAX would abort it."""

    def tell() -> None:
        say(f"waiting for the other processes of the job, {JOIN_SECONDS} seconds at most ...")

    def give_up() -> None:
        done()
        if address is not None and not answers(address):
            problem = f"nothing answers at {address}, where process 0 of the job should be"
        else:
            problem = "not all processes of the job have come"
        say(
            f"error: {problem}: this process has waited for {JOIN_SECONDS} seconds; start all of them at about the "
            "same time, with the same --processes.coordinator and --processes.count."
        )
        os._exit(2)

    timers = [threading.Timer(10, tell), threading.Timer(JOIN_SECONDS, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def coordinator() -> Any:
    """JAX's client of the coordinator, which holds keys and values, and barriers; there is no public way to it."""
    return _coordinator()[0]


def _coordinator() -> tuple[Any, str]:
    from jax._src import distributed

    state: Any = distributed.global_state
    return state.client, state.coordinator_address


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


def text_from_first(text: str) -> str:
    """Gives all processes the text of the first."""
    import jax

    if jax.process_count() == 1:
        return text
    key = f"timesformer/text/{next(_texts)}"
    if is_first():
        coordinator().key_value_set(key, text)
        return text
    return coordinator().blocking_key_value_get(key, SLOWEST_SECONDS * 1000)


def wait_for_all(name: str) -> None:
    """Waits until every process has called this.

    The coordinator keeps the list, not the devices, whose first operation together waits for 30 seconds and no longer.

    Args:
        name: of the place in the program, the same in all.

    Raises:
        TrainingError: one has not come in time.
    """
    import jax

    if jax.process_count() == 1:
        return
    try:
        coordinator().wait_at_barrier(f"timesformer/{name}/{next(_meetings)}", SLOWEST_SECONDS * 1000)
    except jax.errors.JaxRuntimeError as error:
        raise too_slow(name) if "Barrier timed out" in str(error) else error from error


_meetings, _texts = itertools.count(), itertools.count()


def too_slow(name: str) -> TrainingError:
    """The error where a process has not come to a place in time."""
    return TrainingError(
        f"{name}: a process of the job has not come so far within {SLOWEST_SECONDS} seconds, though it lives; its own "
        "log may say what it does."
    )


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
def _report_sudden_end() -> Generator[Callable[[], None]]:
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
