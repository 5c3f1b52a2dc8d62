"""What befalls a process of a job, by its own hand, so that it can be repeated. Imported in the processes of a job."""

import os
import pkgutil
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def before(function: str, happen: Callable[..., Any]) -> None:
    """Has something happen before each call of a function of the package, with the same arguments."""
    _around(function, happen, lambda *_: None)


def after(function: str, happen: Callable[..., Any]) -> None:
    """Has something happen after each call of a function of the package, with the same arguments."""
    _around(function, lambda *_: None, happen)


def _around(function: str, first: Callable[..., Any], last: Callable[..., Any]) -> None:
    owner, _, name = function.rpartition(".")
    holder = pkgutil.resolve_name(f"timesformer_jax.{owner}")
    real = getattr(holder, name)

    def call(*arguments: Any, **options: Any) -> Any:
        first(*arguments)
        result = real(*arguments, **options)
        last(*arguments)
        return result

    setattr(holder, name, call)


def send(number: int) -> None:
    """Sends this process a signal."""
    os.kill(os.getpid(), number)


def signal_at(place: str, step: int, number: int) -> None:
    """Sends this process a signal at a place: reading, step, saving, validation, export.

    Args:
        place: where.
        step: at which, or from which on, for all places but the last two.
        number: of the signal.
    """
    match place:
        case "reading":
            batch = 4
            before(
                "data.samples.TrainingSamples.__getitem__",
                lambda _, sample: send(number) if sample >= batch * step else None,
            )
        case "step":
            before("training.step_log.StepLog.read", lambda _, at, *rest: send(number) if at == step else None)
        case "saving":
            after(
                "training.checkpointing.Checkpoints.save",
                lambda _, state, *rest: send(number) if int(state.step) >= step else None,
            )
        case "validation":
            before("training.job.predict_batch", lambda *_: send(number))
        case _:
            before("training.loop.whole", lambda *_: send(number))


def disk_full_from(step: int) -> None:
    """From a checkpoint on no file may be longer than 100 bytes, as on a full disk."""

    def fill(checkpoints: Any, state: Any, *_: Any) -> None:
        if int(state.step) >= step:
            checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    before("training.checkpointing.Checkpoints.save", fill)


def slow(function: str, seconds: float, begun: str | None = None) -> None:
    """Makes a function slower, which first notes in an empty file that it has begun."""

    def wait(*_: Any) -> None:
        if begun is not None:
            Path(begun).touch()
        time.sleep(seconds)

    before(function, wait)
