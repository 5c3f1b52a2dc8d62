"""From an opened checkpoint to what a classifier needs: preprocessing, folded weights, both in good time."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax.numpy as jnp

from ..checkpoints.mapping import Params
from ..checkpoints.open import Checkpoint, OpenCheckpoint
from ..model.modeling import TimesformerForVideoClassification
from ..support.progress import say
from ..video.processing import VideoProcessor
from .batching import Variables, Weights
from .folding import fold_for_inference
from .quantization import quantize


def folded_variables(
    model: TimesformerForVideoClassification,
    params: Params,
    processor: VideoProcessor | None,
    weights: Weights,
    *,
    in_place: bool,
) -> Variables:
    """What the forward pass takes of a model's parameters; `in_place` gives them away."""
    _, folded = fold_for_inference(model, params, processor, in_place=in_place)
    if weights == "int8":
        return quantize(folded)
    return {"params": folded}


def processor_to_fold(model: TimesformerForVideoClassification, processor: VideoProcessor) -> VideoProcessor | None:
    """The preprocessing to fold into the model.

    None in float64, where the reference's own rounding to float32, after each of its two steps, would be missed.
    """
    return None if jnp.dtype(model.dtype) == jnp.float64 else processor


def clip_shape(model: TimesformerForVideoClassification, processor: VideoProcessor) -> tuple[int, ...] | None:
    """The shape of a clip, where it does not depend on the video."""
    if not processor.do_center_crop or isinstance(processor.crop_size, int):
        return None
    return (model.config.num_frames, *processor.crop_size, 3)


def processor_for(checkpoint: Checkpoint | OpenCheckpoint) -> VideoProcessor:
    """A checkpoint's preprocessing; where it has none, that of the published models at its config's image size.

    Raises:
        CheckpointError: the channel order of an original checkpoint is not known and was not given.
        ConfigError: its preprocessor_config.json can't be used.
    """
    if checkpoint.preprocessing is None and checkpoint.source.processor_file is not None:
        processor = VideoProcessor.from_pretrained(checkpoint.source.directory)  # which says so if it is not RGB
        order = checkpoint.channel_order
        return processor if order is None else dataclasses.replace(processor, channel_order=order)
    height, width = checkpoint.config.image_shape
    processor = VideoProcessor(size=min(height, width), crop_size=(height, width))
    if checkpoint.preprocessing is not None:
        processor = VideoProcessor.from_dict(checkpoint.preprocessing.settings())
    elif checkpoint.channel_order is not None:
        processor = dataclasses.replace(processor, channel_order=checkpoint.channel_order)
    if processor.channel_order != "rgb":
        say(f"{checkpoint.source.name}: frames are given to the model in the channel order BGR.")
    return processor


def in_background(task: Callable[[], Variables]) -> Future[Variables]:
    """Runs a task in a thread that does not keep a failing process alive."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="weights")
    future = pool.submit(task)
    pool.shutdown(wait=False)
    return future
