"""The layout of a training run's directory, and the parameters in one of its checkpoints."""

import dataclasses
from pathlib import Path
from typing import Literal

from ..errors import CheckpointError
from .orbax_directory import OrbaxParams, stored_shapes

TrainingWeights = Literal["ema", "last"]

STATE, RUN = "state", "run"
"""The two items of a checkpoint: the arrays, and what is written of them as JSON."""

_FIELDS: dict[TrainingWeights, str] = {"ema": "ema", "last": "params"}
"""Where the state, a `TrainState` of training/step.py, has the parameters."""


@dataclasses.dataclass(frozen=True)
class RunLayout:
    """The parts of a run's directory from which its model can be loaded.

    Attributes:
        path: the directory.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The recipe."""
        return self.path / "train_config.json"

    @property
    def model(self) -> Path:
        """The directory with configuration and preprocessing of the model."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Orbax's directory, with one directory for each step."""
        return self.path / "checkpoints"


def steps_in(directory: Path) -> list[int]:
    """The steps, in order, whose complete checkpoints a directory holds."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit() and path.is_dir())


def find_training_checkpoint(path: Path) -> tuple[Path, Path] | None:
    """The checkpoint and the model's directory of a run, or of one of its checkpoints; None for any other directory.

    Raises:
        CheckpointError: the run has no checkpoint yet.
    """
    run = RunLayout(path)
    if run.config.is_file():
        steps = steps_in(run.checkpoints)
        if not steps:
            raise CheckpointError(f"{path} is a training run without a checkpoint; wait for its first one.")
        return run.checkpoints / str(steps[-1]), run.model
    run = RunLayout(path.absolute().parent.parent)
    return (path, run.model) if (path / STATE).is_dir() and run.config.is_file() else None


def open_training_run(checkpoint: Path, weights: TrainingWeights | None = None) -> OrbaxParams:
    """Opens the parameters in a checkpoint of a run.

    Args:
        checkpoint: the directory that `find_training_checkpoint` found.
        weights: the moving average or the parameters of the last step; None takes the average where there is one.

    Raises:
        CheckpointError: the checkpoint is damaged, or keeps no moving average.
    """
    state = checkpoint / STATE
    stored = stored_shapes(state, checkpoint)
    has_average = any(name.startswith(f"{_FIELDS['ema']}/") for name in stored)
    if weights == "ema" and not has_average:
        raise CheckpointError(f"{checkpoint} keeps no moving average of the parameters (ema).")
    weights = weights or ("ema" if has_average else "last")
    field = _FIELDS[weights]
    return OrbaxParams(
        checkpoint,
        state,
        {name.removeprefix(f"{field}/"): shape for name, shape in stored.items() if name.startswith(f"{field}/")},
        f"TimeSformer in training, after step {checkpoint.name}",
        field,
        {"weights": {"ema": "moving average", "last": "of the last step; no moving average"}[weights]},
    )
