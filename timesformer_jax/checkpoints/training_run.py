"""Parameters out of a training run: its directory, or one of the checkpoints in it.

The layout is that of training/run_directory.py: `model/` says which model it is, `checkpoints/STEP/state` holds the
state in Orbax, parameters and their moving average in it.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError, first_line
from .mapping import Params, flat_names, get_leaf, mapping_table, set_leaf
from .orbax_directory import require_stored

TrainingWeights = Literal["ema", "last"]

_STATE = "state"
_KEYS: dict[TrainingWeights, str] = {"ema": "ema", "last": "params"}
"""What the state calls them."""


def find_training_state(path: Path) -> tuple[Path, Path] | None:
    """The state and the model's directory of a run, or of one of its checkpoints; None for any other directory.

    Raises:
        CheckpointError: the run has no checkpoint yet.
    """
    if (path / "train_config.json").is_file():
        names = [child.name for child in (path / "checkpoints").glob("*") if child.name.isdigit()]
        if not names:
            raise CheckpointError(f"{path} is a training run without a checkpoint; wait for its first one.")
        return path / "checkpoints" / max(names, key=int) / _STATE, path / "model"
    run = path.absolute().parent.parent
    if (path / _STATE).is_dir() and (run / "train_config.json").is_file():
        return path / _STATE, run / "model"
    return None


def stored_training_params(
    state: Path, weights: TrainingWeights | None = None
) -> tuple[TrainingWeights, dict[str, tuple[tuple[int, ...], str]]]:
    """Which parameters a state keeps, with shape and type of each by its path; none is read.

    Args:
        state: from `find_training_state`.
        weights: as for `load_training_params`.

    Returns:
        Whether they are the moving average or the parameters of the last step, and the parameters.

    Raises:
        CheckpointError: the checkpoint is damaged, or keeps no moving average.
    """
    import orbax.checkpoint as ocp

    with _naming(state), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree: Any = checkpointer.metadata(state.absolute()).item_metadata.tree
        has_average = bool(jax.tree.leaves(tree.get("ema")))
        if weights == "ema" and not has_average:
            raise CheckpointError(f"{state.parent} keeps no moving average of the parameters (ema).")
        weights = weights or ("ema" if has_average else "last")
        leaves = flat_names(tree[_KEYS[weights]])
        return weights, {name: (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in leaves.items()}


def load_training_params(
    state: Path, config: TimesformerConfig, dtype: np.dtype | None, weights: TrainingWeights | None
) -> Params:
    """Reads the parameters of a classifier into numpy arrays.

    Args:
        state: from `find_training_state`.
        config: of the model.
        dtype: of the arrays; None keeps the files' own.
        weights: the moving average or the parameters of the last step; None takes the average where there is one.

    Raises:
        CheckpointError: the checkpoint is damaged, keeps no moving average, or is not of this model.
    """
    import orbax.checkpoint as ocp

    weights, stored = stored_training_params(state, weights)
    require_stored(state.parent, stored, config)
    template: Params = {}
    for entry in mapping_table(config, head=True):
        set_leaf(template, entry.path, 0)
    item = {_KEYS[weights]: template}
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype), item)
    args = ocp.args.PyTreeRestore(item, restore_args=restore_args, partial_restore=True)
    with _naming(state), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        # Orbax finds nothing at relative paths.
        restored = checkpointer.restore(state.absolute(), args=args)[_KEYS[weights]]
        for entry in mapping_table(config, head=True):
            found = get_leaf(restored, entry.path)
            if np.shape(found) != entry.shape or not isinstance(found, np.ndarray):
                raise CheckpointError(f"{state.parent}: {'/'.join(entry.path)} is not what its metadata says.")
    return restored


@contextlib.contextmanager
def _naming(state: Path) -> Generator[None]:
    """Turns what Orbax and TensorStore raise on damaged files, many types, into an error that names the checkpoint."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001
        raise CheckpointError(f"{state.parent} is not a readable training checkpoint ({first_line(error)}).") from None
