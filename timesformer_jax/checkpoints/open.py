"""Checkpoints of every kind, told apart by what is inside: `load_checkpoint` in, `save_...` of each kind out."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, get_args

import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError, ConfigError
from .adapt import Changes, Resize, adapt
from .contents import Contents
from .hub import HubOptions
from .huggingface import has_head, params_from_tensors
from .labels import read_labels
from .mapping import Params
from .orbax_directory import load_params, stored_head
from .preprocessing import ChannelOrder, Preprocessing
from .recognition import open_contents
from .source import Source, locate
from .tensors import warn_of_not_finite
from .training_run import TrainingWeights, load_training_params
from .vit import PatchOrder

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


@dataclasses.dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint whose weights are not read yet.

    Attributes:
        config: the model's, any overrides applied.
        source: where it is.
        preprocessing: as in `Checkpoint`.
        channel_order: as in `Checkpoint`.
        read: reads the weights; raises CheckpointError.
    """

    config: TimesformerConfig
    source: Source
    preprocessing: Preprocessing | None
    channel_order: ChannelOrder | None
    read: Callable[[], Checkpoint]


def load_checkpoint(source: str | PathLike[str] | Source, **options: Any) -> Checkpoint:
    """Reads a checkpoint of any kind into numpy arrays.

    Args:
        source: as for `open_checkpoint`, and so are all options.
        **options: arguments of `open_checkpoint`.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or not the model that its config describes.
        ConfigError: its config, or an override, is impossible.
    """
    return open_checkpoint(source, **options).read()


def open_checkpoint(
    source: str | PathLike[str] | Source,
    *,
    head: bool | None = None,
    dtype: np.dtype | None = None,
    hub: HubOptions | None = None,
    labels: str | PathLike[str] | None = None,
    channel_order: ChannelOrder | None = None,
    resize: Resize | None = None,
    patch_order: PatchOrder | None = None,
    training_weights: TrainingWeights | None = None,
    **overrides: Any,
) -> OpenCheckpoint:
    """Finds out what a checkpoint of any kind is, and reads its config but not its weights.

    Args:
        source: a Transformers directory or weights file, a converted directory, a Hub id, an original .pyth file, a
            ViT to start from (Transformers' or timm's), a training run, or a checkpoint in one.
        head: whether parameters of the classifier (True) or of the bare model are wanted; None takes what is there, and
            a classifier where `num_labels` asks for one.
        dtype: of the arrays; None keeps the file's own.
        hub: how to reach the Hub.
        labels: a file of label names (see labels.py) for a checkpoint that has none of its own.
        channel_order: of the frames that the checkpoint was trained on; an original one may not tell it.
        resize: how position embeddings are resized; None is "bicubic" for a ViT and "nearest", which the model itself
            does with its input, for a TimeSformer.
        patch_order: how patches were flattened for a ViT whose patch embedding is a linear layer.
        training_weights: of a training run: the moving average ("ema") or the parameters of the last step ("last");
            None takes the average where there is one.
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
        ("training_weights", training_weights, get_args(TrainingWeights)),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
    found = source if isinstance(source, Source) else locate(source, hub)
    names = None if labels is None else read_labels(labels)
    contents: Contents | None = None
    if found.is_training_state:
        config, source_head = found.config(), True
    elif found.is_converted:
        config, source_head = found.config(), stored_head(found.weights)
    else:
        contents = open_contents(found, _with_classes(overrides, names), patch_order)
        config, source_head = contents.config, has_head(contents.tensors)

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
    preprocessing = None if contents is None else contents.preprocessing
    if preprocessing is not None:
        preprocessing = dataclasses.replace(
            preprocessing,
            size=target.image_shape,
            channel_order=channel_order or preprocessing.channel_order,
            checkpoint=found.name,
        )

    def read() -> Checkpoint:
        if found.is_training_state:
            params = load_training_params(found.weights, config, dtype, training_weights)
        elif contents is None:
            params, _ = load_params(found.weights, config, dtype)
        else:
            params, _ = params_from_tensors(found.weights, contents.tensors, config, dtype)
        warn_of_not_finite(found.name, params)
        params, changes = adapt(params, config, target, source_head=source_head, target_head=target_head, resize=resize)
        if contents is not None:
            changes.dropped += contents.dropped
        if is_vit:
            logger.warning("%s: a ViT, made a %s TimeSformer", found.name, target.attention_type)
        if str(changes):
            logger.warning("%s: %s", found.name, changes)
        return Checkpoint(target, params, found, changes, preprocessing, channel_order)

    return OpenCheckpoint(target, found, preprocessing, channel_order, read)


def _with_classes(overrides: Mapping[str, Any], names: Mapping[int, str] | None) -> dict[str, Any]:
    """As many classes as there are names, where the user does not give another number."""
    return dict(overrides) if names is None else {"num_labels": len(names), **overrides}
