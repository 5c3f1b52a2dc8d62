"""The model's scores for videos: the views of each go through the model one after the other and are averaged."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ..checkpoints.mapping import Params
from ..data.on_device import normalize
from ..model.modeling import TimesformerForVideoClassification
from ..sharding import BatchPlace
from ..support.compilation import compiler_options
from ..video.processing import VideoProcessor
from .metrics import TOP, VideoResult

Predict = Callable[[Params, Any], Float[Array, "b labels"]]


def make_predict(
    model: TimesformerForVideoClassification,
    processor: VideoProcessor,
    average: Literal["logits", "probabilities"] = "logits",
) -> Predict:
    """Makes a compiled function from parameters and the views of videos to one row of scores for each video.

    Args:
        model: the model.
        processor: its mean and standard deviation normalise the frames.
        average: what is averaged over the views; the original's code sums logits.
    """

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def predict(params: Params, frames: UInt8[Array, "b views t height width c"]) -> Float[Array, "b labels"]:
        def scores(view: UInt8[Array, "b t height width c"]) -> Float[Array, "b labels"]:
            pixel_values = normalize(view, processor, jnp.promote_types(model.dtype, jnp.float32))
            outputs: Any = model.apply({"params": params}, pixel_values)
            return outputs.logits if average == "logits" else jax.nn.softmax(outputs.logits)

        # One view after the other: no more memory than a batch of single clips needs.
        return jax.lax.map(scores, frames.swapaxes(0, 1)).mean(axis=0)

    return predict


def predict_batch(
    predict: Predict, params: Params, batch: Mapping[str, np.ndarray], place: BatchPlace
) -> list[VideoResult]:
    """Scores a batch of `EvaluationBatches`, of which this process has read its part.

    Every process gets the results of the whole batch; samples that only fill it up are left out. A video with a score
    that is not finite is unanswered: NaN sorts among numbers anyhow, and the mean of views hides which it came from.
    """
    placed = place.put({name: batch[name] for name in ("frames", "ids", "labels", "valid")})
    scores = place.whole(predict(params, placed.pop("frames")))
    batch = place.whole(placed)
    best, finite = np.argsort(-scores, axis=1, kind="stable")[:, :TOP], np.isfinite(scores).all(axis=1).tolist()
    videos = zip(batch["ids"].tolist(), batch["labels"].tolist(), batch["valid"].tolist(), strict=True)
    return [
        VideoResult(
            video,
            label,
            tuple(best[i].tolist()) if valid and finite[i] else (),
            tuple(scores[i, best[i]].tolist()) if valid and finite[i] else (),
            valid and not finite[i],
        )
        for i, (video, label, valid) in enumerate(videos)
        if video >= 0
    ]
