"""Import paths: those that stay, and those that CHANGELOG.md says have moved."""

import importlib
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

CHANGELOG = (Path(__file__).parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")
CELLS = [line.split("|")[1:-1] for line in CHANGELOG.splitlines() if line.startswith("| `")]
TABLE = [[re.findall(r"`([\w.]+)`", cell) for cell in cells] for cells in CELLS]
MOVED = [(name, old, new) for row in TABLE if len(row) == 3 for name in row[0] for old in row[1] for new in row[2]]
REPLACED = [row for row in TABLE if len(row) == 2]

STAY = {
    "": "DamagedVideoWarning TimesformerConfig TimesformerForVideoClassification TimesformerModel VideoClassifier "
    "VideoProcessor probe read_clip read_frames",
    ".errors": "CheckpointError ConfigError DataError TimesformerError TrainingError VerificationError VideoError",
    ".config": "AttentionOrder AttentionType PositionEmbeddingType ProblemType Size TimesformerConfig",
    ".schemes": "attention_steps has_position_embeddings has_temporal_attention has_time_embeddings steps_for_cls "
    "unknown_to_transformers",
    ".sharding": "AXES BatchPlace MeshConfig ShardingRules axes_in_use batch_share clip_sharding clips_at_once "
    "devices_along global_batch make_mesh on_cpu shardings_of use_mesh whole",
    ".cli": "main",
    ".checkpoints": "Checkpoint HubOptions OpenCheckpoint load_checkpoint open_checkpoint",
    ".conversion": "convert_flax_to_hf convert_hf_to_flax",
    ".video": "Pictures Video VideoInfo probe read_clip read_frames",
    ".inference": "VideoClassifier",
    ".training.loop": "TrainResult train",
    ".training.recipe": "Checkpointing IMAGENET_VIT ModelOptions Optimizer Schedule TrainConfig total_steps",
    ".training.data": "Augmentation DataConfig",
}
"""The paths that people import since before there were rooms."""


def find(path: str) -> Any:
    """A module, or what a module holds under the rest of a path."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(["timesformer_jax", *parts[:end]]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[end:], module)
    raise AttributeError(path)


@pytest.mark.parametrize("module", STAY)
def test_paths_that_stay(module: str) -> None:
    loaded = importlib.import_module(f"timesformer_jax{module}")
    assert [name for name in STAY[module].split() if not hasattr(loaded, name)] == []


def test_moved_names_are_where_the_changelog_says() -> None:
    assert len(MOVED) > 70
    assert len(REPLACED) > 10
    missing = [f"{new}.{name}" for name, _, new in MOVED if not hasattr(find(new), name)]
    for _, new in REPLACED:
        for path in new:
            try:
                find(path)
            except AttributeError:
                missing.append(path)
    assert not missing


def test_what_has_moved_is_there_no_more() -> None:
    for name, old, _ in MOVED:
        with pytest.raises(AttributeError):
            find(f"{old}.{name}")
