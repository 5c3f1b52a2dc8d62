"""Several processes, on one machine or many, as one job: JAX's own runtime, started from options or the environment.

    with joined(ProcessOptions()):          # Cloud TPU and Slurm are found; anything else runs alone
        train(...)

A job lives and dies as a whole. When one of its processes fails, the others say so at once and end; when one dies, they
notice within the heartbeat's time (a collective operation may notice earlier). The same command goes on from the last
checkpoint.
"""

import atexit
import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from ..errors import ConfigError, TrainingError, ending, first_line
from .processes import ProcessOptions, jax_settings
from .progress import say, show_progress
from .sudden_ends import limited, patient_abort, report_sudden_end
from .watching import GRACE_SECONDS, LOST, Ending, Watch

HEARTBEAT_SECONDS = 30
"""A process that was silent for so long counts as dead. JAX's own 100 would hold the others for minutes."""

JOIN_SECONDS = 300
"""So long the processes wait for each other at the start of the job."""

SLOWEST_SECONDS = 1800
"""So long they wait for the slowest of them at each place where all have to come before they go on."""

_COMMUNICATION = re.compile(
    r"\bGloo\b|\bNCCL\b|coordination service|heartbeat|^(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): "
)


@contextlib.contextmanager
def joined(options: ProcessOptions | None = None) -> Generator[None]:
    """Joins this process to the others of its job, before anything else uses JAX. Where there are none, it runs alone.

    Raises:
        ConfigError: the processes can't be found or joined.
        TrainingError: another process was lost.
    """
    settings = jax_settings(options or ProcessOptions())
    if settings is None:
        yield
        return
    import jax

    # Read when the backend starts; it matters on CPUs alone, which can't work together without it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with report_sudden_end() as done, patient_abort():
        try:
            with limited(JOIN_SECONDS, settings.get("coordinator_address"), done):
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

                def before_end() -> None:
                    _undo_all()
                    done()

                watch = Watch(client, address, jax.process_index(), jax.process_count(), before_end)
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


@contextlib.contextmanager
def undone_on_failure(undo: Callable[[], None]) -> Generator[None]:
    """Has something undone if this process fails meanwhile, also where it is ended because another has failed.

    Args:
        undo: does so; it may be called in another thread.
    """
    _to_undo.append(undo)
    try:
        yield
    except BaseException:
        _undo_all()
        raise
    _to_undo.remove(undo)


def _undo_all() -> None:
    while _to_undo:
        _to_undo.pop()()


_to_undo: list[Callable[[], None]] = []


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


def _is_of_communication(error: BaseException) -> bool:
    """Whether an error, or one that caused it, is of the communication with other processes. JAX has no type for it."""
    while not _COMMUNICATION.search(str(error)):
        if error.__cause__ is None:
            return False
        error = error.__cause__
    return True
