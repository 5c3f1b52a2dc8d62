"""Opens and loads checkpoints of every format, and adapts them to the config that is asked for."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, get_args

import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError, ConfigError
from ..support.progress import say
from ..video.processing import VideoProcessor
from .adapt import Changes, Resize, adapt
from .formats import open_files, recognise
from .hub import HubOptions
from .labels import read_labels
from .mapping import Params
from .source import AdapterSource, Source, locate
from .stored_model import ChannelOrder
from .tensors import warn_of_not_finite
from .training_run import TrainingWeights
from .vit import PatchOrder

logger = logging.getLogger("timesformer_jax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """The facts about a checkpoint that are known without its weights.

    Attributes:
        config: the config of the model, with any overrides.
        source: where the checkpoint is.
        processor: the preprocessing that the user gave, or the weights file or a ViT tells; None where
            `source.processor_file` tells it, or nothing does.
        resized: whether the user gave the size of the frames (`image_size`).
        unknown_order: a sentence that asks for the channel order of the frames; None where it is known.
        channel_order: the channel order that the user gave, if any.
    """

    config: TimesformerConfig
    source: Source
    processor: VideoProcessor | None = None
    resized: bool = False
    unknown_order: str | None = None
    channel_order: ChannelOrder | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint(CheckpointInfo):
    """A checkpoint in memory.

    Attributes:
        params: a tree of numpy arrays.
        changes: the parameters that are new, resized or dropped.
    """

    params: Params
    changes: Changes


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenCheckpoint(CheckpointInfo):
    """A checkpoint whose weights are not read yet.

    Attributes:
        read: reads the weights; raises CheckpointError.
    """

    read: Callable[[], Checkpoint]


def load_checkpoint(source: str | PathLike[str] | Source, **options: Any) -> Checkpoint:
    """Reads a checkpoint of any format into numpy arrays.

    Args:
        source: a file, a directory or a Hub id, as for `open_checkpoint`.
        **options: the other arguments of `open_checkpoint`.

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
    base: str | PathLike[str] | None = None,
    processor: VideoProcessor | str | PathLike[str] | None = None,
    **overrides: Any,
) -> OpenCheckpoint:
    """Finds out what a checkpoint of any format is, and reads its config but not its weights.

    Args:
        source: a Transformers directory or weights file, a converted directory, a Hub id, an original .pyth file, a
            checkpoint of mmaction2 or Lightning, a Trainer's output directory, a ViT to start from (Transformers' or
            timm's), a training run, or a checkpoint in one; or a LoRA adapter of PEFT's, which is merged into its base.
        head: whether parameters of the classifier (True) or of the bare model are wanted; None takes what is there, and
            a classifier where `num_labels` asks for one.
        dtype: the type of the arrays; None keeps the file's own.
        hub: how to reach the Hub.
        labels: a file of label names (see labels.py) for a checkpoint that has none of its own.
        channel_order: the channel order of the frames in training, which an original checkpoint may not tell.
        resize: how position embeddings are resized; None is "bicubic" for a ViT, and for a TimeSformer "nearest", as
            the model itself resizes them to its input.
        patch_order: how patches were flattened for a ViT whose patch embedding is a linear layer.
        training_weights: the moving average ("ema") of a training run's parameters or those of its last step ("last");
            None takes the average where there is one. Likewise for a weights file with both (see weights_file.py).
        base: the checkpoint that an adapter is merged into; None takes the one that the adapter names.
        processor: a preprocessing, or the file or directory that tells it, instead of the checkpoint's own.
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
    found = source if isinstance(source, Source) else locate(source, hub, base)
    names = None if labels is None else read_labels(labels)
    files = open_files(found, training_weights)
    stored = recognise(found, files, _with_classes(overrides, names), patch_order)
    if not stored.has_head:
        overrides = _with_classes(overrides, names)
    if stored.is_vit:
        overrides = {"attention_type": "divided_space_time"} | overrides
    config = stored.config.replace(**overrides)
    if names is not None:
        if len(names) != config.num_labels:
            raise CheckpointError(f"{labels} names {len(names)} classes, but {found.name} has {config.num_labels}.")
        config = config.replace(id2label=names)
    # Names for a checkpoint say what its classes are; classes in a config say which are wanted.
    named = stored.config
    if names is not None and len(names) == named.num_labels:
        named = named.replace(id2label=names)
    asks_head = bool(overrides.keys() & {"num_labels", "id2label"})
    target_head = stored.has_head or asks_head if head is None else head
    if stored.is_vit and target_head and not stored.has_head and not asks_head:
        raise CheckpointError(f"{found.name} is a ViT without a classifier; give num_labels for a new one.")
    if stored.adapter is not None and target_head and not stored.has_head and not asks_head:
        raise CheckpointError(f"{found.name} is an adapter without a classifier; give num_labels for a new one.")
    if stored.dropped and target_head and not stored.has_head and not asks_head:
        raise CheckpointError(
            f"{found.name} has a TimeSformer without a classifier of its own, beside {', '.join(stored.dropped[:4])}, "
            "which no TimeSformer has; give num_labels for a new classifier."
        )

    resized = overrides.get("image_size") is not None
    info = CheckpointInfo(config=config, source=found, channel_order=channel_order, resized=resized)
    if stored.processor is not None:
        mean, std = stored.processor.image_mean, stored.processor.image_std
        order = channel_order or stored.processor.channel_order
        own = published_processor(config, image_mean=mean, image_std=std, channel_order=order)
        arithmetic = ("do_rescale", "rescale_factor", "offset", "do_normalize")
        own = dataclasses.replace(own, **{name: getattr(stored.processor, name) for name in arithmetic})
        info = dataclasses.replace(info, processor=own)
    if stored.unknown_order is not None and channel_order is None:
        message = f"{found.name}: the channel order of its frames is not known ({stored.unknown_order}); give "
        info = dataclasses.replace(info, unknown_order=f'{message}channel_order="rgb" or "bgr".')

    if processor is not None:
        given = processor if isinstance(processor, VideoProcessor) else VideoProcessor.from_pretrained(processor)
        order = given.channel_order if channel_order is None else channel_order
        info = dataclasses.replace(info, processor=dataclasses.replace(given, channel_order=order))
        if isinstance(processor, VideoProcessor):  # which has an order, where a file may be without
            info = dataclasses.replace(info, unknown_order=None)

    def read() -> Checkpoint:
        if isinstance(found, AdapterSource):
            say(f"{found.name}: an adapter, merged into {found.base.name}.")
        params = stored.read(dtype)
        warn_of_not_finite(found.name, params)
        params, changes = adapt(
            params,
            named,
            config,
            source_head=stored.has_head,
            target_head=target_head,
            resize=resize or ("bicubic" if stored.is_vit else "nearest"),
        )
        changes.dropped += stored.dropped
        if stored.is_vit:
            logger.warning("%s: a ViT, made a %s TimeSformer", found.name, config.attention_type)
        if str(changes):
            logger.warning("%s: %s", found.name, changes)
        return Checkpoint(**vars(info), params=params, changes=changes)

    return OpenCheckpoint(**vars(info), read=read)


def _with_classes(overrides: Mapping[str, Any], names: Mapping[int, str] | None) -> dict[str, Any]:
    """The overrides, with as many classes as there are names where the user gives no other number."""
    return dict(overrides) if names is None else {"num_labels": len(names), **overrides}


def published_processor(config: TimesformerConfig, **settings: Any) -> VideoProcessor:
    """The published models' preprocessing at a config's image size, with some settings changed."""
    height, width = config.image_shape
    return VideoProcessor(size=min(height, width), crop_size=(height, width), **settings)


def processor_for(checkpoint: CheckpointInfo) -> VideoProcessor:
    """A checkpoint's preprocessing; where it has none, that of the published models at its config's image size.

    Raises:
        CheckpointError: the channel order of an original checkpoint is not known and was not given.
        ConfigError: its preprocessor_config.json can't be used.
    """
    if checkpoint.unknown_order is not None:
        raise CheckpointError(checkpoint.unknown_order)
    order = checkpoint.channel_order
    if checkpoint.processor is None and checkpoint.source.processor_file is not None:
        processor = VideoProcessor.from_pretrained(checkpoint.source.processor_file.parent)  # says so if not RGB
        processor = processor if order is None else dataclasses.replace(processor, channel_order=order)
    else:
        processor = checkpoint.processor or published_processor(checkpoint.config, channel_order=order or "rgb")
        if processor.channel_order != "rgb":
            say(f"{checkpoint.source.name}: frames are given to the model in the channel order BGR.")
    return _at_image_size(processor, checkpoint)


def _at_image_size(processor: VideoProcessor, checkpoint: CheckpointInfo) -> VideoProcessor:
    """The preprocessing at the model's size where the user gave one, or a training run had it."""
    size, (height, width) = processor.output_size, checkpoint.config.image_shape
    if checkpoint.resized or checkpoint.source.layout == "training run":
        return processor.with_output_size(height, width)
    if size is not None and size != (height, width):
        logger.warning(
            "%s: its preprocessing makes frames of %d x %d pixels, and its config.json says image_size %d x %d; "
            "such frames are used, and position embeddings resized to them. image_size (--config.image-size) chooses.",
            checkpoint.source.name,
            *size,
            height,
            width,
        )
    return processor
