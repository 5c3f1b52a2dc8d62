"""Measures speed and memory of a run, and traces some of its steps."""

import contextlib
import dataclasses
import resource
import sys
import time
from collections.abc import Generator
from pathlib import Path

import jax

from .state import TrainState


@dataclasses.dataclass
class Clock:
    """Times steps, from one report to the next.

    The loop runs ahead of the devices by one step, so a step counts when its metrics have been read, which is when it
    is done: the time of a step is that from the end of one step to the end of the next. While the loop waits for a
    batch the devices work on the step before it; waiting costs time only where it is longer than that step.

    Attributes:
        clips: in one step.
    """

    clips: int
    _steps: int = 0
    _waited: float = 0.0
    _since: float = dataclasses.field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def waiting(self) -> Generator[None]:
        """Counts the time in its context as spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def tick(self) -> None:
        """Counts a step that is done."""
        self._steps += 1

    def restart(self) -> None:
        """Begins anew, after what should not be counted, such as a compilation or a validation."""
        self._steps, self._waited, self._since = 0, 0.0, time.perf_counter()

    def report(self) -> dict[str, float]:
        """The time of a step (seconds), speed, share of the time spent waiting for data, and memory (bytes)."""
        elapsed = time.perf_counter() - self._since
        steps = max(1, self._steps)
        values = {
            "step_time": elapsed / steps,
            "clips_per_second": steps * self.clips / elapsed,
            "data_wait": self._waited / elapsed,
            "memory": float(peak_memory()),
        }
        self.restart()
        return values


def peak_memory() -> int:
    """The most bytes in use so far: on the first device, or of this process where the device does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Profiler:
    """Writes a trace of a few steps for xprof, some steps after the start."""

    def __init__(self, directory: Path | None, step: int, total: int, count: int = 3) -> None:
        """Does nothing yet.

        Args:
            directory: of the trace; no trace when None.
            step: steps taken before.
            total: steps in all.
            count: steps to trace.
        """
        self._directory = directory
        # Past the first steps, which are slower, where there are others.
        self._first = min(step + count, max(step, total - count))
        self._last = self._first + count
        self._running = False

    def before(self, step: int, state: TrainState) -> None:
        """Begins or ends the trace before a step, when the devices have got as far as this.

        Args:
            step: steps taken before.
            state: after these steps; only where the trace begins or ends is it waited for.
        """
        if self._directory is None or step not in (self._first, self._last):
            return
        jax.block_until_ready(state)
        if step == self._first:
            jax.profiler.start_trace(self._directory)
            self._running = True
        else:
            self.close()

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
