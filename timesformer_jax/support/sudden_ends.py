"""Sentences for the ends of a process that no handler would see, because JAX's runtime ends it."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator

from .progress import say
from .watching import LOST, answers


@contextlib.contextmanager
def limited(seconds: int, address: str | None, done: Callable[[], None]) -> Generator[None]:
    """Ends this process if the others of the job don't come in time; JAX would abort it."""

    def tell() -> None:
        say(f"waiting for the other processes of the job, {seconds} seconds at most ...")

    def give_up() -> None:
        done()
        if address is not None and not answers(address):
            problem = f"nothing answers at {address}, where process 0 of the job should be"
        else:
            problem = "not all processes of the job have come"
        say(
            f"error: {problem}: this process has waited for {seconds} seconds; start all of them at about the "
            "same time, with the same --processes.coordinator and --processes.count."
        )
        os._exit(2)

    timers = [threading.Timer(10, tell), threading.Timer(seconds, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


@contextlib.contextmanager
def report_sudden_end() -> Generator[Callable[[], None]]:
    """Starts a helper process that reports if JAX's runtime ends this one, which no handler would see."""
    message = f"error: this process was ended from outside Python; where nobody here did, {LOST}\n"
    code = f"import sys; sys.stdin.read() or sys.stderr.write({message!r})"
    helper = subprocess.Popen([sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, start_new_session=True)
    told = False

    def done() -> None:
        nonlocal told
        if not told:
            told = True
            helper.communicate(b"done")

    try:
        yield done
    finally:
        done()


@contextlib.contextmanager
def patient_abort() -> Generator[None]:
    """Delays the end of a process that calls `abort`, as JAX does for a lost one, for six seconds.

    That is time for this file's threads to end the process with a sentence and an exit code. The handler of SIGABRT (6)
    becomes the C library's `sleep`, which signals may call, and which is given the number of the signal.
    """
    try:
        library = ctypes.CDLL(None)
        handle, sleep = library.signal, ctypes.cast(library.sleep, ctypes.c_void_p)
    except (OSError, AttributeError, TypeError):  # another C library
        yield
        return
    handle.restype, handle.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    previous = handle(signal.SIGABRT, sleep)
    try:
        yield
    finally:
        handle(signal.SIGABRT, previous)
