"""Validation during a run: when it is due, its results, and making up for one that a stop has cut short.

A state is saved before it is validated, which may take long: whatever ends the process meanwhile costs no step, and the
next process, which finds no accuracy noted for the state, validates it first.
"""

import math

from ..support.distributed import announce
from ..support.files import read_lines
from .job import Job
from .metrics import MetricsWriter
from .state import TrainState
from .stopping import StopRequest

ACCURACY = "validation_accuracy"
"""The metric that the best checkpoint is the best by."""


def falls_into(step: int, interval: float) -> bool:
    """Whether a step completes a multiple of an interval, which need not be whole."""
    return math.floor(step / interval) > math.floor((step - 1) / interval)


class Validation:
    """The validation of a run."""

    def __init__(self, job: Job, stop: StopRequest, accuracies: dict[int, float]) -> None:
        """Validates nothing yet.

        Args:
            job: the run.
            stop: cuts a validation short.
            accuracies: the results by step; kept up to date.
        """
        self._job, self._stop, self._accuracies = job, stop, accuracies

    def resume(self, step: int) -> dict[str, float]:
        """Reads what earlier processes have noted up to a step, and returns the last value of each metric."""
        recent: dict[str, float] = {}
        for line in read_lines(self._job.run.metrics):
            if line["step"] <= step:
                recent |= {name: value for name, value in line.items() if name not in ("step", "epoch")}
                if ACCURACY in line:
                    self._accuracies[line["step"]] = line[ACCURACY]
        return recent

    def is_due(self, step: int) -> bool:
        """Whether the state after this step is to be validated, and has not been."""
        if not self._job.config.data.validation or not step or step in self._accuracies:
            return False
        interval = self._job.config.checkpoints.validate_every * self._job.steps_per_epoch
        return step == self._job.total or falls_into(step, interval)

    def run(self, state: TrainState, writer: MetricsWriter | None) -> dict[str, float]:
        """Validates a state and notes the metrics, which it returns; none where a request to stop cuts it short."""
        evaluation = self._job.validate(state.trained, self._stop)
        if evaluation is None:
            return {}
        step, values = int(state.step), {ACCURACY: evaluation.top1, "validation_top5": evaluation.top5}
        if writer is not None:
            writer.metrics(step, values)
        self._accuracies[step] = evaluation.top1
        unanswered = f" ({evaluation.unanswered.sum()} without an answer)" if evaluation.unanswered.any() else ""
        announce(f"validation after step {step}: {evaluation.top1:.2%} of {evaluation.videos} videos right{unanswered}")
        return values
