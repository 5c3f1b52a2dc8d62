"""What is told of the steps of a run, one by one: numbers to its files, progress to a person."""

import contextlib
import dataclasses
import math
from collections.abc import Generator
from typing import Any

import jax
import numpy as np

from ..errors import TrainingError
from ..support.distributed import is_first
from ..support.progress import Display, Observer
from .checkpointing import Checkpoints
from .job import Job
from .metrics import MetricsWriter
from .performance import Clock
from .soundness import why_unsound
from .state import StepMetrics, TrainState


class StepLog:
    """Reads the metrics of steps, checks them, and passes them on.

    Attributes:
        recent: the last value of each metric; kept up to date.
        writer: of the run's files; None in the processes that write none.
        clock: times the steps.
    """

    def __init__(
        self,
        job: Job,
        checkpoints: Checkpoints,
        step: int,
        recent: dict[str, float],
        writer: MetricsWriter | None,
        observer: Observer | None,
    ) -> None:
        """Shows nothing yet.

        Args:
            job: the run.
            checkpoints: of the run; an error names the last.
            step: steps taken before.
            recent: the last values of earlier processes.
            writer: of the run's files.
            observer: is told of every step, instead of a bar or lines on standard error.
        """
        self.recent, self.writer, self.clock = recent, writer, Clock(job.config.batch_size)
        self._job, self._checkpoints, self._observer = job, checkpoints, observer
        shown = observer is None and is_first()
        self._display = Display("training", job.total, step, job.config.log_every) if shown else None

    @contextlib.contextmanager
    def shown(self) -> Generator[None]:
        """Shows the progress, and begins to take the time."""
        self.clock.restart()
        if self._display is None:
            yield
            return
        self._display.start()
        try:
            yield
        finally:
            self._display.stop()

    def read(self, step: int, metrics: StepMetrics, ids: np.ndarray[Any, Any]) -> None:
        """Waits for a step, and notes its metrics.

        Args:
            step: its number.
            metrics: on the devices.
            ids: of the videos in its batch.

        Raises:
            TrainingError: the step has diverged: its loss or gradient, or a weight after it, is not finite.
        """
        values = {name: float(value) for name, value in dataclasses.asdict(jax.device_get(metrics)).items()}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(values[name]):
                raise self._diverged(f"the {name.replace('_', ' ')} is {values[name]} at step {step}", ids)
        if not values.pop("finite"):
            raise self._diverged(f"one of the weights is not finite after step {step}", ids)
        self.recent |= values
        self.clock.tick()
        if self.writer is not None:
            self.writer.metrics(step, {"epoch": step / self._job.steps_per_epoch, **values})
            if step % self._job.config.log_every == 0:
                self.writer.performance(step, self.clock.report())

    def tell(self, step: int) -> None:
        """Shows that a step is done, and the validation after it."""
        if self._observer is not None:
            self._observer(step, self._job.total, dict(self.recent))
        if self._display is not None:
            values = self.recent
            status = f"loss {values['loss']:.4f}  accuracy {values['accuracy']:.2f}  rate {values['learning_rate']:.2g}"
            self._display.update(step, status)

    def require_sound(self, state: TrainState, frames: jax.Array, ids: np.ndarray[Any, Any]) -> None:
        """Checks a state before it is saved.

        Args:
            state: after the step with these ids.
            frames: a batch, (b, t, h, w, c), that the model must have finite scores for.
            ids: of the videos in the batch of the last step.

        Raises:
            TrainingError: the state is not sound.
        """
        problem = why_unsound(self._job, state, frames)
        if problem is not None:
            raise self._diverged(f"{problem} after step {int(state.step)}", ids)

    def _diverged(self, problem: str, ids: np.ndarray[Any, Any]) -> TrainingError:
        self._checkpoints.wait()
        last, run = self._checkpoints.latest, self._job.run.path
        kept = "there is no checkpoint yet" if last is None else f"the checkpoint of step {last} in {run} is kept"
        return TrainingError(
            f"{problem}, in the batch of the videos with the ids {', '.join(map(str, ids.tolist()))}; {kept}; a lower "
            "learning rate or optimizer.clip_norm may help, in a run with a directory of its own."
        )
