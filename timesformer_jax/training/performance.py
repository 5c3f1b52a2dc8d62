"""How fast a run goes and what it needs."""

import contextlib
import dataclasses
import resource
import sys
import time
from collections.abc import Generator
from pathlib import Path

import jax


@dataclasses.dataclass
class Clock:
    """Times steps, from one report to the next.

    Attributes:
        clips: in a step.
    """

    clips: int
    _steps: int = 0
    _waited: float = 0.0
    _since: float = dataclasses.field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def waiting(self) -> Generator[None]:
        """Counts as time spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def tick(self) -> None:
        """A step is done."""
        self._steps += 1

    def restart(self) -> None:
        """Forgets what was counted, such as a compilation or a validation."""
        self._steps, self._waited, self._since = 0, 0.0, time.perf_counter()

    def report(self) -> dict[str, float]:
        """Speed and waiting since the last report (seconds; share of the time), and memory (bytes)."""
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

    def __init__(self, directory: Path | None, first: int, count: int = 3) -> None:
        """Does nothing yet.

        Args:
            directory: of the trace; no trace when None.
            first: step to begin with; past the compilation.
            count: steps to trace.
        """
        self._directory, self._first, self._last = directory, first, first + count
        self._running = False

    def before(self, step: int) -> None:
        """To be called before each step."""
        if self._directory is not None and step == self._first:
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif step == self._last:
            self.stop()

    def stop(self) -> None:
        """Ends a trace that is under way."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
