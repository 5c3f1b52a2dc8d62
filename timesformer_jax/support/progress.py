"""What long steps show: a bar or a spinner on a terminal, plain lines in a log, on standard error."""

import contextlib
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.progress import track as rich_track

T = TypeVar("T")


def console() -> Console:
    """Standard error, as rich writes to it; in a notebook plain lines, not a display for each."""
    return Console(stderr=True, highlight=False, soft_wrap=True, force_jupyter=False)


def say(message: str) -> None:
    """A line beside the results."""
    console().print(message, markup=False, emoji=False)


@contextlib.contextmanager
def step(description: str) -> Generator[None]:
    """One step without known length."""
    if not sys.stderr.isatty():
        say(f"{description} ...")
        yield
        return
    with console().status(description):
        yield


def track(items: Sequence[T], description: str) -> Iterable[T]:
    """The items of a step, one after the other."""
    if len(items) < 2 or not sys.stderr.isatty():
        return items
    return rich_track(items, description, console=console(), transient=True)


@contextlib.contextmanager
def counter(total: int, description: str) -> Generator[Callable[[int], None]]:
    """A step of so many items: the function that it gives is told of each (or of several) that is done.

    Any thread may call it. In a log there is a line for each tenth.
    """
    if sys.stderr.isatty():
        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        with Progress(*columns, console=console(), transient=True) as progress:
            task = progress.add_task(description, total=total)
            yield lambda done: progress.advance(task, done)
        return
    lock, count = threading.Lock(), 0

    def tell(done: int) -> None:
        nonlocal count
        with lock:
            before, count = count, count + done
            if count * 10 // total > before * 10 // total:
                say(f"{description}: {count} of {total}")

    yield tell
