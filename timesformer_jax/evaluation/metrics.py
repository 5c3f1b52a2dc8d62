"""Evaluation as the paper does it: several views of each video, their outputs averaged, every video counted once."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from ..checkpoints.mapping import Params
from ..data.on_device import normalize
from ..model.modeling import TimesformerForVideoClassification
from ..sharding import BatchPlace
from ..support.compilation import compiler_options
from ..video.processing import VideoProcessor

TOP = 5

Average = Literal["logits", "probabilities"]
Predict = Callable[[Params, Any], Float[Array, "b labels"]]


@dataclasses.dataclass(frozen=True)
class VideoResult:
    """What a model said of one video.

    Attributes:
        id: of the video.
        label: its class.
        top: the classes with the highest scores, best first, at most five; none where it could not be decoded.
        scores: theirs.
    """

    id: int
    label: int
    top: tuple[int, ...]
    scores: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well a model did.

    Attributes:
        classes: names of the classes.
        confusion: how many videos of each class (row) were given which class (column).
        in_top: videos of each class that had it among the best five.
        undecodable: videos that could not be read, and are not counted.
    """

    classes: tuple[str, ...]
    confusion: Int[np.ndarray, "classes classes"]
    in_top: Int[np.ndarray, " classes"]
    undecodable: int

    @classmethod
    def of(cls, classes: Sequence[str], results: Iterable[VideoResult]) -> "Evaluation":
        """Counts results."""
        confusion = np.zeros((len(classes), len(classes)), np.int64)
        in_top = np.zeros(len(classes), np.int64)
        undecodable = 0
        for result in results:
            if not result.top:
                undecodable += 1
                continue
            confusion[result.label, result.top[0]] += 1
            in_top[result.label] += result.label in result.top[:TOP]
        return cls(tuple(classes), confusion, in_top, undecodable)

    @property
    def videos(self) -> int:
        """How many were counted."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Share of videos whose class came first."""
        return float(np.trace(self.confusion)) / max(1, self.videos)

    @property
    def top5(self) -> float:
        """Share of videos whose class was among the best five."""
        return float(self.in_top.sum()) / max(1, self.videos)

    @property
    def class_accuracy(self) -> Float[np.ndarray, " classes"]:
        """Share of each class's videos that were given it; NaN for a class without any."""
        counts = self.confusion.sum(axis=1)
        return np.divide(np.diag(self.confusion), counts, out=np.full(len(counts), np.nan), where=counts > 0)

    @property
    def mean_class_accuracy(self) -> float:
        """The mean of `class_accuracy` over the classes that have videos."""
        present = self.confusion.sum(axis=1) > 0
        return float(self.class_accuracy[present].mean()) if present.any() else 0.0

    def summary(self) -> dict[str, float]:
        """The four numbers, by name."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "videos": self.videos,
            "undecodable": self.undecodable,
        }


def make_predict(
    model: TimesformerForVideoClassification, processor: VideoProcessor, average: Average = "logits"
) -> Predict:
    """A compiled function from parameters and the views of videos to one row of scores for each video.

    Args:
        model: the model.
        processor: its mean and standard deviation normalise the frames.
        average: over the views of what; FB's code sums logits.
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
    """What a model says of a batch of `evaluation_clips`, of which this process has read its part.

    Every process gets the results of the whole batch; rows that only fill it up are left out.
    """
    placed = place.put({name: batch[name] for name in ("frames", "ids", "labels", "valid")})
    scores = place.whole(predict(params, placed.pop("frames")))
    batch = place.whole(placed)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    rows = zip(batch["ids"].tolist(), batch["labels"].tolist(), batch["valid"].tolist(), strict=True)
    return [
        VideoResult(
            video,
            label,
            tuple(best[i].tolist()) if valid else (),
            tuple(scores[i, best[i]].tolist()) if valid else (),
        )
        for i, (video, label, valid) in enumerate(rows)
        if video >= 0
    ]
