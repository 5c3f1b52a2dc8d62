"""What an evaluation counts: accuracies and confusion, from the model's result for each video."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

TOP = 5
"""So many of the best classes are kept for each video."""


@dataclasses.dataclass(frozen=True)
class VideoResult:
    """The model's result for one video.

    Attributes:
        id: number of the video in its list.
        label: its class.
        top: the classes with the highest scores, best first, at most five; none where it could not be decoded.
        scores: the scores of these classes.
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
        """Counts the results of videos."""
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
        """How many videos were counted."""
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
        """The numbers of results.json, by name."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "videos": self.videos,
            "undecodable": self.undecodable,
        }
