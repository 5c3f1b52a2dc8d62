"""Fits a checkpoint to another config, and notes which parameters are resized, dropped or new."""

import dataclasses
from typing import Any, Literal

import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError
from ..parameters import BACKBONE
from ..position_embeddings import resize_bicubic, resize_space_embedding, resize_time_embedding
from ..schemes import attention_steps
from .class_rows import ClassRows, match_rows
from .mapping import Params, get_leaf, mapping_table, set_leaf

Resize = Literal["nearest", "bicubic"]


@dataclasses.dataclass
class Changes:
    """The differences between a checkpoint and the parameters made from it, as paths of parameters.

    Attributes:
        new: parameters that the checkpoint lacks.
        resized: embeddings resized to another number of patches or frames.
        dropped: parameters that the model lacks.
        classes: a sentence about the rows of a classifier that was trained on other classes; empty where there is
            nothing to say.
    """

    new: list[str] = dataclasses.field(default_factory=list)
    resized: list[str] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)
    classes: str = ""

    def __str__(self) -> str:
        parts = {"new, to be trained": self.new, "resized": self.resized, "dropped": self.dropped}
        listed = [f"{change}: {', '.join(names)}" for change, names in parts.items() if names]
        return "; ".join([*listed, *[self.classes] * bool(self.classes)])


def adapt(
    params: Params,
    source: TimesformerConfig,
    target: TimesformerConfig,
    *,
    source_head: bool,
    target_head: bool,
    resize: Resize = "nearest",
) -> tuple[Params, Changes]:
    """Makes parameters for one config from those of another.

    Position and time embeddings are resized (nearest, as the model does with its input, unless told). The rows of
    the classifier follow the names of the classes (see class_rows.py). Where a class has none it is made anew: normal
    weights of `initializer_range` from a fixed seed, zero bias. Temporal attention
    that the checkpoint lacks starts as the paper's training does: a copy of the spatial attention behind a temporal
    projection of zero, and zero time embeddings, so that the model computes what it did before. Missing attentions over
    windows and over width start like it, and missing position embeddings at zero.

    Args:
        params: the parameters of the source; the leaves that don't change are shared with the result.
        source: the config that they belong to.
        target: the config to make parameters for.
        source_head: whether the source has a classifier.
        target_head: whether the result gets one.
        resize: how position embeddings are resized to another grid of patches.

    Raises:
        CheckpointError: the weights can't serve the target (another width, depth, patch size, ...).
    """
    source_entries = {_key(entry.path): entry for entry in mapping_table(source, head=source_head)}
    target_entries = {_key(entry.path): entry for entry in mapping_table(target, head=target_head)}
    source_root = (BACKBONE,) if source_head else ()
    *further, spatial = sorted(attention_steps(target), key=lambda step: step.dense is None)
    copied = {step.attention: spatial.attention for step in further} | {step.norm: spatial.norm for step in further}
    zero_at_first = {"position_embeddings", "time_embeddings", *(step.dense for step in further)}
    classes = match_rows(source.id2label, target.id2label) if source_head and target_head else ClassRows(())
    changes, adapted = Changes(classes=classes.remark or ""), {}
    for key, entry in target_entries.items():
        name, shape = "/".join(entry.path), entry.shape
        found = source_entries.pop(key, None)
        leaf = None if found is None else get_leaf(params, found.path)
        # Grids of 2 x 8 and of 4 x 4 patches have embeddings of the same shape.
        other_grid = key[-1] == "position_embeddings" and source.grid != target.grid
        of_other_classes = key[0] == "classifier" and not classes.as_before
        if leaf is not None and leaf.shape == shape and not other_grid and not of_other_classes:
            set_leaf(adapted, entry.path, leaf)
            continue
        if leaf is not None and other_grid and leaf.shape[1] == shape[1]:
            resized = resize_bicubic if resize == "bicubic" else resize_space_embedding
            leaf = np.concatenate([leaf[:1], resized(leaf[1:], source.grid, target.grid)])
            changes.resized.append(name)
        elif leaf is not None and key[-1] == "time_embeddings" and leaf.shape[1] == shape[1]:
            leaf = resize_time_embedding(leaf, target.num_frames)
            changes.resized.append(name)
        elif key[0] == "classifier":
            new = _new_classifier(key[-1], shape, target.initializer_range, _dtype(params))
            leaf = new if leaf is None or leaf.shape[:-1] != shape[:-1] else classes.arrange(leaf, new)
            changes.new += [name] if classes.all_new else []
        elif leaf is None and zero_at_first.intersection(key):
            leaf = np.zeros(shape, _dtype(params))
            changes.new.append(name)
        elif leaf is None and not copied.keys().isdisjoint(key):
            leaf = np.array(get_leaf(params, (*source_root, *(copied.get(part, part) for part in key))))
            changes.new.append(name)
        else:
            was = "not in the checkpoint" if leaf is None else f"{leaf.shape} in the checkpoint"
            raise CheckpointError(
                f"the checkpoint can't become this model: {name} is {was} and {shape} in the model; only num_labels, "
                "num_frames, image_size and attention_type may change, attention_order and position_embedding_type."
            )
        set_leaf(adapted, entry.path, leaf)
    changes.dropped = ["/".join(entry.path) for entry in source_entries.values()]
    return adapted, changes


def _key(path: tuple[str, ...]) -> tuple[str, ...]:
    """A parameter's path inside the encoder, the same in the classifier and in the bare model."""
    return path[1:] if path[0] == BACKBONE else path


def _new_classifier(kind: str, shape: tuple[int, ...], deviation: float, dtype: np.dtype) -> np.ndarray:
    if kind == "bias":
        return np.zeros(shape, dtype)
    return np.random.default_rng(0).normal(0, deviation, shape).astype(dtype)


def _dtype(params: Any) -> np.dtype:
    while isinstance(params, dict):
        params = next(iter(params.values()))
    return params.dtype
