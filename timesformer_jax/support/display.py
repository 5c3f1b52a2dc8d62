"""What a run shows while it goes: a bar on a terminal, a line now and then in a log."""

import sys
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .progress import console, say


class Observer(Protocol):
    """Told of every step; for programs that show their own progress."""

    def __call__(self, step: int, total: int, values: dict[str, float]) -> None:
        """After a step: its number, that of the last, loss, accuracy and so on."""
        ...


class Display:
    """The bar, or the lines."""

    def __init__(self, description: str, total: int, done: int, every: int) -> None:
        """Nothing is shown yet.

        Args:
            description: what is being done.
            total: steps in all.
            done: steps done before.
            every: steps from one line of a log to the next.
        """
        self._total, self._every = total, every
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            columns: list[Any] = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            ]
            self._progress = Progress(*columns, console=console(), refresh_per_second=4)
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
