"""Writes the metrics of a run: JSON lines, and events for TensorBoard."""

import contextlib
import json
import os
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Any

from ..support.files import cut_lines
from .run_directory import RunDirectory


class MetricsWriter:
    """Writes metrics.jsonl, performance.jsonl and the event files of a run.

    metrics.jsonl depends on nothing but the recipe and the devices: a run that was killed and started again ends with
    the same file, byte for byte, as one that was not. What depends on clock or machine goes to
    performance.jsonl.

    Lines reach the operating system one by one, so that those of every step before a checkpoint outlive the process.
    """

    def __init__(self, run: RunDirectory, step: int) -> None:
        """Cuts off what an earlier process wrote of steps after `step`, which will be taken once more."""
        self._files: dict[Path, IO[str]] = {}
        for path in (run.metrics, run.performance):
            cut_lines(path, step)
            self._files[path] = path.open("a", buffering=1)  # by lines
        self._run = run
        self._events = _Events(run.tensorboard, step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Notes the metrics of a step, or of the validation after it."""
        self._write(self._run.metrics, step, values)

    def performance(self, step: int, values: Mapping[str, float]) -> None:
        """Notes speed, waiting and memory."""
        self._write(self._run.performance, step, values)
        with self._reported():
            self._events.flush()

    def _write(self, path: Path, step: int, values: Mapping[str, float]) -> None:
        with self._reported():
            self._files[path].write(json.dumps({"step": step, **values}) + "\n")
            self._events.write(step, values)

    def close(self) -> None:
        """Closes the files."""
        with self._reported(), contextlib.ExitStack() as files:
            for file in (self._events, *self._files.values()):
                files.callback(file.close)

    @contextlib.contextmanager
    def _reported(self) -> Generator[None]:
        """Says what can't be written where: the system tells a file's name when it is opened, and not later."""
        try:
            yield
        except OSError as error:
            reason = f"the metrics can't be written ({error.strerror})"
            raise OSError(error.errno, reason, str(self._run.path)) from error


class _Events:
    """An event file, written by this thread: tensorboardX's own writer would fail in another, where nobody notices."""

    def __init__(self, directory: Path, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._messages: Any = event_pb2
        session = self._messages.SessionLog
        directory.mkdir(exist_ok=True)
        # Files that are made within one second would have one name.
        self._writer: Any = EventsWriter(str(directory / "events"), f".{os.getpid()}.{step}")
        # TensorBoard forgets what earlier files say of these steps.
        start = self._messages.Event(step=step + 1, session_log=session(status=session.START))
        self._writer.write_event(start)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            event = self._messages.Event(step=step, wall_time=time.time(), summary=scalar(name, value))
            self._writer.write_event(event)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
