"""Computes a case of an ablation in a process of its own (see case.py), however that ends."""

import contextlib
import json
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from ..training.stopping import StopRequest
from .case import Answer, Case

COMMAND = [sys.executable, "-m", Case.__module__]

Runner = Callable[[Case, StopRequest], Answer]


def in_own_process(case: Case, stop: StopRequest) -> Answer:
    """Computes a case in a new process, and passes on a request to stop."""
    with _Child() as child:
        child.send(case)
        while child.process.poll() is None:
            if stop.made:
                child.process.terminate()
                child.process.wait()
            time.sleep(0.05)
        return child.answer(stopped=stop.made)


class _Child:
    """The process, which ends when its parent leaves, whatever the reason."""

    def __init__(self) -> None:
        # In a session of its own: of a Ctrl-C it hears by its parent.
        self.process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.wait()

    def send(self, case: Case) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died already, which its exit code tells
            self.process.stdin.write(pickle.dumps(case))  # and stays open: the child ends when it is closed

    def answer(self, *, stopped: bool) -> Answer:
        assert self.process.stdout is not None
        lines = self.process.stdout.read().decode().splitlines()
        if lines:
            return Answer(**json.loads(lines[-1]))
        code = self.process.returncode
        if stopped:
            return Answer()
        if code == -signal.SIGKILL:
            return Answer(error="its process was killed, for lack of memory most likely.")
        return Answer(error=f"its process ended with exit code {code}; what it said is above.")
