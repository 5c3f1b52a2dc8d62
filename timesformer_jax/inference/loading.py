"""Prepares what a classifier computes with: folded parameters, and the shape of its clips."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax.numpy as jnp

from ..checkpoints.mapping import Params
from ..model.modeling import TimesformerForVideoClassification
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
    """The variables of the forward pass, made from a model's parameters; `in_place` gives these away."""
    _, folded = fold_for_inference(model, params, processor, in_place=in_place)
    if weights == "int8":
        return quantize(folded)
    return {"params": folded}


def processor_to_fold(model: TimesformerForVideoClassification, processor: VideoProcessor) -> VideoProcessor | None:
    """The preprocessing to fold into the model.

    It is None in float64, since folding lacks the reference's own rounding to float32 after each of its two steps.
    """
    return None if jnp.dtype(model.dtype) == jnp.float64 else processor


def clip_shape(model: TimesformerForVideoClassification, processor: VideoProcessor) -> tuple[int, ...] | None:
    """The shape of a clip; None where it depends on the video."""
    size = processor.output_size
    return None if size is None else (model.config.num_frames, *size, 3)


def in_background(task: Callable[[], Variables]) -> Future[Variables]:
    """Runs a task in a thread that does not keep a failing process alive."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="weights")
    future = pool.submit(task)
    pool.shutdown(wait=False)
    return future
