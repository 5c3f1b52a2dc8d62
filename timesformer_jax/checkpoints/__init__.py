"""Checkpoints of every kind, told apart by what is inside: `load_checkpoint` in, `save_...` of each kind out."""

import dataclasses
import logging
from collections.abc import Mapping
from os import PathLike
from typing import Any, get_args

import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError, ConfigError
from .adapt import Changes, Resize, adapt
from .contents import Contents
from .hub import HubOptions
from .huggingface import has_head, params_from_tensors, save_state_dict
from .labels import read_labels
from .mapping import Params
from .native import load_params, save_params
from .preprocessing import ChannelOrder, Preprocessing
from .recognition import open_contents
from .source import Source, locate
from .tensors import warn_of_not_finite
from .vit import PatchOrder

__all__ = [
    "Changes",
    "ChannelOrder",
    "Checkpoint",
    "HubOptions",
    "PatchOrder",
    "Preprocessing",
    "Resize",
    "Source",
    "load_checkpoint",
    "locate",
    "save_params",
    "save_state_dict",
]

logger = logging.getLogger("timesformer_jax")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        config: the model's, any overrides applied.
        params: a tree of numpy arrays.
        source: where it came from.
        changes: what is new, resized or dropped against the file.
        preprocessing: of a checkpoint that tells it in the weights file itself or comes from a ViT; None where
            `source.processor_file` holds it, or nothing does.
        channel_order: of the frames, if the user gave one.
    """

    config: TimesformerConfig
    params: Params
    source: Source
    changes: Changes = dataclasses.field(default_factory=Changes)
    preprocessing: Preprocessing | None = None
    channel_order: ChannelOrder | None = None


def load_checkpoint(
    source: str | PathLike[str] | Source,
    *,
    head: bool | None = None,
    dtype: np.dtype | None = None,
    hub: HubOptions | None = None,
    labels: str | PathLike[str] | None = None,
    channel_order: ChannelOrder | None = None,
    resize: Resize | None = None,
    patch_order: PatchOrder | None = None,
    **overrides: Any,
) -> Checkpoint:
    """Reads a checkpoint of any kind into numpy arrays.

    Args:
        source: a Transformers directory or weights file, a converted directory, a Hub id, an original .pyth file, or a
            ViT to start from (Transformers' or timm's).
        head: whether parameters of the classifier (True) or of the bare model are wanted; None takes what is there, and
            a classifier where `num_labels` asks for one.
        dtype: of the arrays; None keeps the file's own.
        hub: how to reach the Hub.
        labels: a file of label names (see labels.py) for a checkpoint that has none of its own.
        channel_order: of the frames that the checkpoint was trained on; an original one may not tell it.
        resize: how position embeddings are resized; None is "bicubic" for a ViT and "nearest", which the model itself
            does with its input, for a TimeSformer.
        patch_order: how patches were flattened for a ViT whose patch embedding is a linear layer.
        **overrides: fields of the config to change, or to tell where a file without a config does not. The weights are
            adapted, and the names of what is new, resized or dropped are logged as a warning.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or not the model that its config describes.
        ConfigError: its config, or an override, is impossible.
    """
    for name, value, known in (
        ("channel_order", channel_order, get_args(ChannelOrder)),
        ("resize", resize, get_args(Resize)),
        ("patch_order", patch_order, get_args(PatchOrder)),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
    found = source if isinstance(source, Source) else locate(source, hub)
    names = None if labels is None else read_labels(labels)
    contents: Contents | None = None
    if found.weights == found.directory:
        config = found.config()
        params, source_head = load_params(found.weights, config, dtype)
    else:
        contents = open_contents(found, _with_classes(overrides, names), patch_order)
        config, source_head = contents.config, has_head(contents.tensors)
        params, _ = params_from_tensors(found.weights, contents.tensors, config, dtype)
    warn_of_not_finite(found.name, params)

    if not source_head:
        overrides = _with_classes(overrides, names)
    is_vit = contents is not None and contents.kind == "vit"
    if is_vit:
        overrides = {"attention_type": "divided_space_time"} | overrides
    target = config.replace(**overrides)
    if names is not None:
        if len(names) != target.num_labels:
            raise CheckpointError(f"{labels} names {len(names)} classes, but {found.name} has {target.num_labels}.")
        target = target.replace(id2label=names)
    asks_head = bool(overrides.keys() & {"num_labels", "id2label"})
    target_head = source_head or asks_head if head is None else head
    if is_vit and target_head and not source_head and not asks_head:
        raise CheckpointError(f"{found.name} is a ViT without a classifier; give num_labels for a new one.")

    resize = resize or ("bicubic" if is_vit else "nearest")
    params, changes = adapt(params, config, target, source_head=source_head, target_head=target_head, resize=resize)
    if contents is not None:
        changes.dropped += contents.dropped
    if is_vit:
        logger.warning("%s: a ViT, made a %s TimeSformer", found.name, target.attention_type)
    if str(changes):
        logger.warning("%s: %s", found.name, changes)
    preprocessing = None if contents is None else contents.preprocessing
    if preprocessing is not None:
        preprocessing = dataclasses.replace(
            preprocessing,
            size=target.image_shape,
            channel_order=channel_order or preprocessing.channel_order,
            checkpoint=found.name,
        )
    return Checkpoint(target, params, found, changes, preprocessing, channel_order)


def _with_classes(overrides: Mapping[str, Any], names: Mapping[int, str] | None) -> dict[str, Any]:
    """As many classes as there are names, where the user does not give another number."""
    return dict(overrides) if names is None else {"num_labels": len(names), **overrides}
