"""What the processes of a job tell each other beside JAX's collectives, which wait for ever for one that does not come.

Two threads of every process ask JAX's coordinator, one whether a process has failed, the other whether all are alive.
Where the answer is bad, the process ends itself, with the sentence of the one that failed, wherever its main thread
waits.
"""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Set
from typing import Any

from .progress import console, say

LOST = (
    "another process of the job has ended or can't be reached (its own log says why); "
    "start all of them again: training goes on from its last checkpoint."
)

GRACE_SECONDS = 2.0
"""How long the main thread has for ending by itself, as it does where it fails for the same reason as another."""

_FAILED, _HEARD = "timesformer/failed", "timesformer/heard"
_WELL = "well"


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a process ends.

    Attributes:
        process: which one.
        code: its exit code.
        sentence: what it says.
    """

    process: int
    code: int
    sentence: str

    def told_by(self, process: int) -> str:
        """The sentence in the log of a process."""
        named = "" if self.process == process or self.sentence.startswith(LOST) else f"in process {self.process}: "
        return f"{named}{self.sentence}"


class Watch:
    """Ends this process when another one has failed or is gone.

    Attributes:
        index: of this process.
    """

    def __init__(self, client: Any, address: str, index: int, count: int, before_end: Callable[[], None]) -> None:
        """Watches nothing yet.

        Args:
            client: of JAX's coordinator.
            address: of the coordinator.
            index: of this process.
            count: how many processes there are.
            before_end: is called before this process is ended.
        """
        self._client, self._address, self._before_end = client, address, before_end
        self.index, self._count = index, count
        self._ending: Ending | None = None
        self._waited = False
        self._heard, self._over = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._listen, self._look)]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads, when the job has ended well in all processes."""
        self._over.set()
        if self.index == 0:
            self._publish(_WELL)  # wakes those that listen

    def join(self) -> None:
        """Waits for the threads, after JAX has let go of the coordinator."""
        for thread in self._threads:
            thread.join(GRACE_SECONDS)

    def tell(self, ending: Ending) -> Ending:
        """Tells the other processes how this one ends; returns how the first of them has ended."""
        self._over.set()
        self._publish(json.dumps(dataclasses.asdict(ending)))
        first = self.heard(GRACE_SECONDS / 2) or ending
        self._wait_until_heard()
        return first

    def end_all(self, ending: Ending) -> None:
        """Ends all processes, this one too, from a thread that is not the main one."""
        self._publish(json.dumps(dataclasses.asdict(ending)))

    def heard(self, seconds: float) -> Ending | None:
        """Waits for what the first process to fail has said; None if nothing was heard."""
        self._heard.wait(seconds)
        return self._ending

    def _publish(self, text: str) -> None:
        def publish() -> None:
            with contextlib.suppress(Exception):  # another was first, or the coordinator is gone
                self._client.key_value_set(_FAILED, text)

        thread = threading.Thread(target=publish, daemon=True)  # JAX may wait for a coordinator that is gone
        thread.start()
        thread.join(GRACE_SECONDS / 2)

    def _listen(self) -> None:
        """Waits until a process has failed."""
        while True:
            last = self._over.is_set()  # and is asked once more, for the main thread waits for the answer
            try:
                text = self._client.blocking_key_value_get(_FAILED, 1000)
            except Exception:  # noqa: BLE001  nothing yet, or the coordinator is gone
                if last:
                    return
                # JAX's calls may wait for a coordinator that is gone; a connection is refused.
                if self.index and not answers(self._address):
                    self._end(self._lost({0}))
                    return
                self._over.wait(0.05)
                continue
            if text == _WELL:
                return
            self._ending = Ending(**json.loads(text))
            with contextlib.suppress(Exception):
                self._client.key_value_set(f"{_HEARD}/{self.index}", "")
            self._heard.set()
            self._end(self._ending)
            return

    def _look(self) -> None:
        """Asks who is alive, until one is not. All processes ask together: the coordinator answers all at once."""
        everyone = list(range(self._count))
        while not self._over.wait(1):
            try:
                missing = set(everyone) - set(self._client.get_live_nodes(everyone))
            except Exception:  # noqa: BLE001  process 0 has the coordinator
                missing = {0}
            if missing and not self._over.is_set():
                self._end(self._ending or self._lost(missing))

    def _lost(self, processes: Set[int]) -> Ending:
        return Ending(self.index, 1, f"{LOST} (process {', '.join(map(str, sorted(processes)))})")

    def _end(self, ending: Ending) -> None:
        """Ends this process, unless its main thread does."""
        if not self._over.wait(GRACE_SECONDS):
            with contextlib.suppress(OSError):  # the log's disk may be full, too
                say(f"error: {ending.told_by(self.index)}")
            self.leave(ending.code)

    def leave(self, code: int) -> None:
        """Ends this process at once, which JAX would otherwise wait for others at its exit."""
        with contextlib.suppress(OSError):
            if sys.stderr.isatty():
                console().show_cursor()  # which a bar has hidden
            sys.stdout.flush()
            sys.stderr.flush()
        self._before_end()
        self._wait_until_heard()
        os._exit(code)

    def _wait_until_heard(self) -> None:
        """The coordinator, which is in process 0, stays until the others have heard what has happened."""
        if self._waited:
            return
        self._waited = True
        deadline = time.monotonic() + GRACE_SECONDS
        for other in range(1, self._count) if self.index == 0 else ():
            with contextlib.suppress(Exception):
                left = max(1, int(1000 * (deadline - time.monotonic())))
                self._client.blocking_key_value_get(f"{_HEARD}/{other}", left)


def answers(address: str) -> bool:
    """Whether anything listens at address:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except OSError:
        return False
    return True
