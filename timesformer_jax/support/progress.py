"""What a long task shows on standard error: a bar or a spinner on a terminal, plain lines in a log."""

import contextlib
import sys
import threading
from collections.abc import Callable, Generator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def console() -> Console:
    """Standard error, as rich writes to it; in a notebook plain lines, not a display for each."""
    return Console(stderr=True, highlight=False, soft_wrap=True, force_jupyter=False)


def say(message: str) -> None:
    """Prints a line beside the results."""
    console().print(message, markup=False, emoji=False)


@contextlib.contextmanager
def show_progress(description: str) -> Generator[None]:
    """Shows that a task of unknown length is going on."""
    if not sys.stderr.isatty():
        say(f"{description} ...")
        yield
        return
    with console().status(description):
        yield


@contextlib.contextmanager
def counter(total: int, description: str) -> Generator[Callable[[int], None]]:
    """Shows how many of `total` items are done. The function that it gives is told how many more of them are.

    Any thread may call it. A log gets a line for each tenth.
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


class Observer(Protocol):
    """Is told of every step; for programs that show their own progress."""

    def __call__(self, step: int, total: int, values: dict[str, float]) -> None:
        """Is called after a step with its number, that of the last, loss, accuracy and so on."""
        ...


class Display:
    """Shows how many steps are done and their values: a bar on a terminal, a line now and then in a log."""

    def __init__(self, description: str, total: int, done: int, every: int) -> None:
        """Shows nothing yet.

        Args:
            description: what is being done.
            total: steps in all.
            done: steps done before.
            every: steps from one line of a log to the next.
        """
        self._total, self._every = total, every
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console(),
                refresh_per_second=4,
            )
            self._task = self._progress.add_task(description, total=total, completed=done, status="")

    def start(self) -> None:
        """Shows the bar."""
        if self._progress is not None:
            self._progress.start()

    def stop(self) -> None:
        """Leaves the bar as it is."""
        if self._progress is not None:
            self._progress.stop()

    def update(self, step: int, status: str) -> None:
        """Shows that a step is done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step, status=status)
        elif step % self._every == 0 or step == self._total:
            say(f"step {step} of {self._total}  {status}")
