"""The directory of a run: what is in it, whose it is, and that only one process works in it.

train_config.json      the recipe, resolved
data.json              what tells its videos from others, wherever they are
versions.jsonl         a line for each start: versions, devices, the step it began with
model/                 config.json and preprocessor_config.json of the model
checkpoints/STEP/      Orbax: state and place in the data
metrics.jsonl          a line for each step, and one for each validation
performance.jsonl      speed, waiting and memory, now and then
tensorboard/           all of these for TensorBoard
bad_videos.txt         what could not be decoded, and bad_validation_videos.txt
export/                what Transformers loads, once the run is finished; converted, where it has no such model
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ..checkpoints.training_run import RunLayout, steps_in
from ..errors import TimesformerError
from ..support.agreement import PACKAGES, flat, version_of
from ..support.distributed import undone_on_failure
from ..support.files import read_json, read_lines, write_atomically
from ..support.progress import say
from .recipe import TrainConfig

FREE_TO_CHANGE = (
    # Places; what is there must be the same.
    *("data.train", "data.validation", "data.root", "data.classes", "data.video_template"),
    *("data.workers", "data.prefetch", "data.max_bad_fraction"),
    *("checkpoints.every", "checkpoints.keep", "log_every", "mesh."),
)
"""Settings that the result of a run does not depend on."""


_SLOWEST_SHARING = 10.0
"""Seconds until a file that one machine has written is seen by another: network file systems keep what they know."""

_LEFT = re.compile(r"\.lock|bad_.*\.txt")
"""What a start that has failed may leave: lists of videos that can't be decoded, for its error names them."""


class RunError(TimesformerError):
    """A run directory that can't be used: it belongs to another run, or another process works in it."""


@dataclasses.dataclass(frozen=True)
class RunDirectory(RunLayout):
    """The paths in a run directory; those of model and checkpoints are in `RunLayout`."""

    @property
    def data(self) -> Path:
        """Which videos it is trained and validated on."""
        return self.path / "data.json"

    @property
    def versions(self) -> Path:
        """Each start's versions and devices."""
        return self.path / "versions.jsonl"

    @property
    def metrics(self) -> Path:
        """What depends on the recipe alone, step by step."""
        return self.path / "metrics.jsonl"

    @property
    def performance(self) -> Path:
        """What depends on the machine."""
        return self.path / "performance.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        """Traces for xprof."""
        return self.path / "profile"

    @property
    def bad_videos(self) -> Path:
        """The list of what could not be decoded."""
        return self.path / "bad_videos.txt"

    @property
    def bad_validation_videos(self) -> Path:
        """The same of validation."""
        return self.path / "bad_validation_videos.txt"

    @property
    def export(self) -> Path:
        """The trained model."""
        return self.path / "export"

    @contextlib.contextmanager
    def claimed(self, config: TrainConfig) -> Generator[None]:
        """Claims the directory; gives a new one up again where the process fails before it has anything to show.

        Else the next start, with what the error has told put right, would be one with another recipe.

        Raises:
            RunError: see `claim`.
        """
        if self.config.exists():
            self.claim(config)
            yield
            return
        self.claim(config)
        with undone_on_failure(self._give_up):
            yield

    def _give_up(self) -> None:
        """Removes what this process has written to a new directory, unless there are metrics or a checkpoint."""
        if steps_in(self.checkpoints) or read_lines(self.metrics):
            return
        for path in (self.data, self.versions, self.metrics, self.performance, self.config):
            path.unlink(missing_ok=True)
        for path in (self.model, self.tensorboard, self.checkpoints):
            shutil.rmtree(path, ignore_errors=True)

    def claim(self, config: TrainConfig) -> None:
        """Writes the recipe to a new directory; checks that it is the one of an old directory.

        Raises:
            RunError: the directory belongs to a run with another recipe (the message names the differences), or holds
                other things.
        """
        values = json.loads(json.dumps(dataclasses.asdict(config)))
        if not self.config.exists():
            if self.path.exists() and any(not _LEFT.fullmatch(path.name) for path in self.path.iterdir()):
                raise RunError(f"{self.path} holds other things than a training run; choose another directory.")
            self._write_config(values)
            return
        # A setting that is newer than the run was at its default.
        defaults = json.loads(json.dumps(dataclasses.asdict(TrainConfig())))
        found, wanted = dict(flat(defaults)) | dict(flat(read_json(self.config, RunError))), dict(flat(values))
        differences = {
            name: f"{name} is {json.dumps(wanted.get(name))} here and {json.dumps(found.get(name))} there"
            for name in sorted(found.keys() | wanted.keys())
            if found.get(name) != wanted.get(name)
        }
        refused = [text for name, text in differences.items() if not name.startswith(FREE_TO_CHANGE)]
        if refused:
            raise RunError(
                f"{self.path} belongs to a run with another recipe: {'; '.join(refused)}. Give the same settings, "
                "or another directory."
            )
        if differences:
            say(f"settings that may change have changed in {self.path}: {'; '.join(differences.values())}")
        self._write_config(values)

    def read_token(self) -> str:
        """What the process that has locked the directory wrote there, another text each time."""
        try:
            return (self.path / ".lock").read_text()
        except OSError:
            return ""

    def require_shared(self, token: str) -> None:
        """Checks that this process sees the directory which the first process of the job has locked.

        Args:
            token: what the first process reads there.

        Raises:
            RunError: it sees another directory, or none.
        """
        deadline = time.monotonic() + _SLOWEST_SHARING
        while self.read_token() != token:
            if time.monotonic() > deadline:
                raise RunError(
                    f"{self.path} is not the directory that the first process of the job sees there; the output has to "
                    "be on a file system that all of them share."
                )
            time.sleep(0.1)

    def claim_data(self, fingerprints: dict[str, str]) -> None:
        """Notes which videos a new run reads; checks that they are those of an old one.

        Args:
            fingerprints: of the training and validation videos.

        Raises:
            RunError: the videos are others.
        """
        if not self.data.exists():
            with write_atomically(self.data) as temporary:
                temporary.write_text(json.dumps(fingerprints) + "\n")
            return
        found = read_json(self.data, RunError)
        for name in ("train", "validation"):
            if found.get(name) != fingerprints.get(name):
                raise RunError(
                    f"the videos of --data.{name} are not those that the run in {self.path} began with (their names, "
                    "order, labels or classes differ). Give the same, wherever they are now, or another directory."
                )

    def _write_config(self, values: dict[str, Any]) -> None:
        with write_atomically(self.config) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n")

    def record_start(self, step: int) -> None:
        """Adds a line with versions and devices."""
        import jax

        line = {
            "step": step,
            "versions": {name: version_of(name) for name in ("python", *PACKAGES)},
            "devices": [device.device_kind for device in jax.devices()],
            "processes": jax.process_count(),
        }
        with self.versions.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Keeps other processes out, until this one leaves or dies.

        Raises:
            RunError: another process works in the directory.
        """
        lock = self.path / ".lock"
        new, locked_before = not self.path.exists(), lock.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        # A record lock: unlike flock's it is not handed on to forked workers, which may live on after a kill.
        with lock.open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = os.path.samestat(lock.stat(), os.fstat(file.fileno()))  # and not one just removed
            except OSError:
                mine = False
            if not mine:
                raise RunError(f"another process is training in {self.path}; wait for it or end it.")
            file.truncate(0)
            file.write(secrets.token_hex(8))
            file.flush()
            try:
                yield
            finally:
                if not locked_before and not self.config.exists():  # no run has come of it
                    self._remove_lock(new)

    def _remove_lock(self, new: bool) -> None:
        with contextlib.suppress(OSError):
            (self.path / ".lock").unlink()
            if new:
                self.path.rmdir()  # where it is empty
