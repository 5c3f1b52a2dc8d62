"""Jobs of several processes for the tests: forked from one that has imported everything, killed, waited for."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEVICES = 4
"""Simulated devices of all processes of a job together."""

WATCHDOG = 120.0
"""No process of a job may take longer."""


@dataclass(eq=False)
class Process:
    """One process of a job."""

    log: Path
    pid: int = 0
    code: int | None = None
    reader: threading.Thread | None = None

    @property
    def said(self) -> str:
        """What it has written so far."""
        if self.code is not None and self.reader is not None:
            self.reader.join(5)
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def sentence(self) -> str:
        """The last line of the log."""
        return (self.said.strip().splitlines() or [""])[-1]

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


@dataclass(eq=False)
class Zygote:
    """Starts processes."""

    folder: Path
    environment: dict[str, str]
    _waiting: dict[int, Process] = field(default_factory=dict)
    _running: dict[int, Process] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            env=os.environ | self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            fact = json.loads(line)
            if "order" in fact:
                process = self._waiting.pop(fact["order"])
                self._running[fact["pid"]] = process
                process.pid = fact["pid"]
            else:
                self._running.pop(fact["pid"]).code = fact["code"]

    def start(self, arguments: Sequence[str], environment: dict[str, str], before: str = "") -> Process:
        self._count += 1
        # A pipe, so that a process which may write no files can still say why it ends.
        pipe = self.folder / f"{self._count}.pipe"
        os.mkfifo(pipe)
        process = self._waiting[self._count] = Process(self.folder / f"{self._count}.log")
        order = {
            "number": self._count,
            "arguments": list(arguments),
            "environment": environment,
            "log": str(pipe),
            "before": before,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        process.reader = threading.Thread(target=_copy, args=(pipe, process.log), daemon=True)
        process.reader.start()
        return process

    def close(self) -> None:
        for process in list(self._running.values()):
            process.signal(signal.SIGKILL)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _copy(pipe: Path, log: Path) -> None:
    with pipe.open("rb", buffering=0) as source, log.open("wb", buffering=0) as target:
        while content := source.read(2**16):
            target.write(content)


@contextlib.contextmanager
def zygote(folder: Path, cache: Path) -> Generator[Zygote]:
    """A zygote whose processes share a cache of compiled programs."""
    found = Zygote(
        folder,
        {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
    )
    try:
        yield found
    finally:
        found.close()


def start_job(
    zygote: Zygote,
    count: int,
    command: Sequence[str] | Callable[[int], Sequence[str]],
    before: Callable[[int], str] = lambda index: "",
    devices: int = DEVICES,
) -> list[Process]:
    """Starts a command as so many processes.

    Args:
        zygote: starts them.
        count: how many.
        command: the arguments of `timesformer`, of all or of each.
        before: Python code that each runs first.
        devices: of all together.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices // count}"
    several = ["--processes.coordinator", address, "--processes.count", str(count), "--processes.index"]
    return [
        zygote.start(
            [
                *(command(index) if callable(command) else command),
                *([*several, str(index)] if count > 1 else ["--processes.cluster", "none"]),
            ],
            {"XLA_FLAGS": flags},
            before(index),
        )
        for index in range(count)
    ]


def wait_until(event: Callable[[], Any], processes: Sequence[Process], seconds: float = WATCHDOG) -> bool:
    """Whether an event came before one of the processes ended."""
    deadline = time.monotonic() + seconds
    while not event():
        if any(process.code is not None for process in processes):
            return bool(event())
        assert time.monotonic() < deadline, [process.said for process in processes]
        time.sleep(0.005)
    return True


def codes(processes: Sequence[Process], seconds: float = WATCHDOG) -> list[int]:
    """Waits until all have ended; their exit codes."""
    deadline = time.monotonic() + seconds
    while any(process.code is None for process in processes):
        if time.monotonic() > deadline:
            for process in processes:
                process.signal(signal.SIGKILL)
            raise AssertionError(["a process hangs", *[(p.code, p.said) for p in processes]])
        time.sleep(0.01)
    return [process.code for process in processes if process.code is not None]
