"""What long steps show: a bar or a spinner on a terminal, plain lines in a log, on standard error."""

import contextlib
import sys
from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")


def console() -> Console:
    """Standard error, as rich writes to it."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


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
