"""Requests to stop: SIGTERM, which clusters send before they take a machine away, and the first Ctrl-C."""

import contextlib
import signal
import sys
import threading
from collections.abc import Generator
from types import FrameType
from typing import Any


class StopRequest:
    """Whether this process has been asked to stop.

    Attributes:
        made: set by the first SIGTERM or SIGINT. A second SIGINT interrupts as usual.
    """

    def __init__(self) -> None:
        self.made = False
        self._agreed, self._passed_on, self._asked = False, False, 0

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.made = True

    @contextlib.contextmanager
    def listening(self) -> Generator["StopRequest"]:
        """Handles the signals until the context is left; threads other than the main one can't, and do nothing.

        In a job of several processes JAX listens to SIGTERM, for all of them.
        """
        jax: Any = sys.modules.get("jax")  # too slow to import before the signals are listened to
        several = jax is not None and jax.distributed.is_initialized()
        if several or threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether to stop; the same in all processes, which all have to ask at the same places."""
        import jax

        if jax.process_count() == 1:
            return self.made
        from jax.experimental import multihost_utils

        if self.made and not self._passed_on:  # by Ctrl-C, or before the processes were joined
            self._passed_on = True
            signal.raise_signal(signal.SIGTERM)  # JAX tells all of them
        if not self._agreed:
            self._asked += 1
            self._agreed = multihost_utils.reached_preemption_sync_point(self._asked)
        return self._agreed
