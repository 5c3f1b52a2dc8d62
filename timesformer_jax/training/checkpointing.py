"""Saves the checkpoints of a run while it goes on, and restores the newest one that is sound."""

import contextlib
import dataclasses
import errno
import logging
import math
import shutil
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ..checkpoints.fingerprints import different, fingerprints
from ..checkpoints.training_run import RUN, STATE, steps_in
from ..errors import first_line
from ..support.distributed import announce, fail, from_first, in_all, is_first, wait_for_all
from .recipe import Checkpointing
from .state import TrainState


class Checkpoints:
    """The checkpoints of a run directory.

    Attributes:
        accuracies: of the validations so far, by step; the checkpoint with the highest is kept. Validation adds to
            them, the same in all processes.
    """

    def __init__(self, directory: Path, options: Checkpointing) -> None:
        """Opens the directory.

        Args:
            directory: made if needed.
            options: how many to keep.
        """
        self._directory = directory.absolute()
        self._options = options
        self._manager: ocp.CheckpointManager | None = None
        self._failure: Exception | None = None
        self.accuracies: dict[int, float] = {}

    def restore(
        self, template: TrainState, why_unsound: Callable[[TrainState], str | None] = lambda state: None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest checkpoint that is sound.

        Others are moved aside, which is announced. A checkpoint is sound if every array in it has the fingerprint that
        it was saved with (TensorStore itself would not notice every flipped bit), and nothing is wrong with its state.

        Args:
            template: a state of shapes, types and shardings; the checkpoint may have been saved with other shardings.
            why_unsound: says what is wrong with a state; asked where it was saved by a version that did not.

        Returns:
            The state, and what `save` was given with it; None where there is no sound checkpoint.
        """
        step = self._newest(math.inf)
        while step >= 0:
            found, reason = None, "another process can't read it"
            try:
                with _silenced():
                    found = self._read(self._directory / str(step), template)
            except Exception as error:  # noqa: BLE001  Orbax and TensorStore raise many types on damaged files
                reason = _reason(error)
            if in_all(found is not None) and found is not None:
                state, run = found
                damaged = different(run["fingerprints"], fingerprints(state))
                problem = None if damaged or run.get("sound") else why_unsound(state)
                if not damaged and problem is None:
                    return found
                reason = problem or f"{damaged[0]} is not what was saved"
            self._set_aside(step, reason)
            step = self._newest(step)
        return None

    def _newest(self, before: float) -> int:
        """The last checkpoint before a step, the same in all processes; -1 where there is none."""
        return from_first(max((step for step in steps_in(self._directory) if step < before), default=-1))

    def _read(self, path: Path, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Reads a checkpoint: the state, and what was saved with it."""
        alone = ocp.options.MultiprocessingOptions()
        if jax.process_count() > 1:
            # Each by itself: else those that find nothing wrong would wait in Orbax for one that has found damage.
            index = jax.process_index()
            alone = ocp.options.MultiprocessingOptions(index, {index}, f"process_{index}")
        handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            args = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(template), RUN: ocp.args.JsonRestore()})
            restored = checkpointer.restore(path, args=args)
        return restored[STATE], restored[RUN]

    def _set_aside(self, step: int, reason: str) -> None:
        aside = self._directory.parent / "damaged" / str(step)
        if is_first():
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            (self._directory / str(step)).rename(aside)
        announce(f"the checkpoint of step {step} is damaged ({reason}); it was moved to {aside}")
        wait_for_all(f"moved the checkpoint of step {step}")

    @property
    def manager(self) -> ocp.CheckpointManager:
        """Orbax's manager; made when first needed, after `restore` has moved damaged checkpoints out of its way."""
        if self._manager is None:
            latest = preservation_policy.LatestN(self._options.keep)
            self._manager = _Manager(
                self._directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=preservation_policy.AnyPreservationPolicy([latest, _Best(self.accuracies)]),
                    cleanup_tmp_directories=True,
                ),
            )
            self._listen(self._manager)
        return self._manager

    def _listen(self, manager: Any) -> None:
        """Lets the other processes know of an error in Orbax's thread, which would wait for them, and they for it."""
        progress = manager._save_progress_tracker  # which is not to be had otherwise
        meet = progress.set

        def tell_and_meet(saving: bool) -> None:
            error = sys.exception()  # Orbax calls this in a `finally`, and all processes meet there
            if isinstance(error, Exception) and not saving:
                self._failure = error
                fail(self._unwritten("the last checkpoint", error))
            meet(saving)

        progress.set = tell_and_meet

    def save(self, state: TrainState, run: Mapping[str, Any]) -> None:
        """Begins to save a state, and returns as soon as the next step may take over its memory.

        Args:
            state: what is saved.
            run: anything JSON holds; `restore` gives it back.

        Raises:
            OSError: this checkpoint, or the one before, can't be written.
        """
        step = int(state.step)
        values = dict(run) | {"fingerprints": fingerprints(state)}
        with self._reported(step):
            self.manager.save(
                step,
                args=ocp.args.Composite(**{STATE: ocp.args.StandardSave(state), RUN: ocp.args.JsonSave(values)}),
                force=True,
            )

    @property
    def latest(self) -> int | None:
        """The step of the last checkpoint."""
        return self.manager.latest_step()

    def check(self) -> None:
        """Looks whether a checkpoint that is being written has failed.

        Raises:
            OSError: it has.
        """
        if self._failure is not None:
            raise self._unwritten("the last checkpoint", self._failure) from self._failure

    def wait(self) -> None:
        """Waits until everything is saved.

        Raises:
            OSError: the last checkpoint can't be written.
        """
        if self._manager is not None:
            with self._reported(None):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Closes the manager; what could not be written is not reported once more."""
        if self._manager is not None:
            with contextlib.suppress(Exception):
                self._manager.close()

    @contextlib.contextmanager
    def _reported(self, step: int | None) -> Generator[None]:
        try:
            yield
        except Exception as error:
            which = f"the checkpoint of step {step}" if step is not None else "the last checkpoint"
            raise self._unwritten(which, error) from error

    def _unwritten(self, which: str, error: Exception) -> OSError:
        failure = OSError(errno.EIO, f"{which} can't be written ({_reason(error)})", str(self._directory))
        failure.__cause__ = error
        return failure


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, but it does not ask JAX whether to stop.

    It would ask with the number of the step each time it saves, and JAX takes that for the count of `StopRequest`,
    whose next number then comes after the one at which JAX wants all to stop: a SIGTERM would be lost.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


@dataclasses.dataclass
class _Best(preservation_policy.PreservationPolicy):
    """Preserves the checkpoint that did best in validation; the later of two equals.

    (Orbax's own policy wants the accuracy when a checkpoint is saved; here validation comes after that.)
    """

    accuracies: Mapping[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        known = [info.step for info in checkpoints if info.step in self.accuracies]
        best = max(known, key=lambda step: (self.accuracies[step], step), default=None)
        return [info.step == best for info in checkpoints]


def _reason(error: BaseException) -> str:
    """The message of an error, without the source locations and lists that TensorStore adds."""
    return first_line(error).split(" [", maxsplit=1)[0][:200]


@contextlib.contextmanager
def _silenced() -> Generator[None]:
    """Keeps Orbax's own reports about a damaged checkpoint out of the log."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
