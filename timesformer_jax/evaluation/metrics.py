"""What an evaluation counts: accuracies and confusion, from the model's result for each video."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from ..errors import DataError

TOP = 5
"""So many of the best classes are kept for each video."""

LARGEST_CONFUSION = 2**30
"""Bytes that a confusion matrix may take as an array: some 11,000 classes."""


@dataclasses.dataclass(frozen=True)
class VideoResult:
    """The model's result for one video.

    Attributes:
        id: number of the video in its list.
        label: its class.
        top: the classes with the highest scores, best first, at most five; none where it could not be decoded, or not
            be answered.
        scores: the scores of these classes.
        unanswered: whether it was decoded, but the model's scores for it are not finite.
    """

    id: int
    label: int
    top: tuple[int, ...]
    scores: tuple[float, ...]
    unanswered: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well a model did.

    Attributes:
        classes: names of the classes.
        answers: how many videos of a class (the first number) were given a class (the second); pairs without any are
            left out.
        in_top: videos of each class that had it among the best five.
        unanswered: videos of each class that the model's scores were not finite for; they count as wrong.
        undecodable: videos that could not be read, and are not counted.
    """

    classes: tuple[str, ...]
    answers: Mapping[tuple[int, int], int]
    in_top: Int[np.ndarray, " classes"]
    unanswered: Int[np.ndarray, " classes"]
    undecodable: int

    @classmethod
    def of(cls, classes: Sequence[str], results: Iterable[VideoResult]) -> "Evaluation":
        """Counts the results of videos."""
        answers: Counter[tuple[int, int]] = Counter()
        in_top, unanswered = np.zeros(len(classes), np.int64), np.zeros(len(classes), np.int64)
        undecodable = 0
        for result in results:
            if result.unanswered:
                unanswered[result.label] += 1
            elif not result.top:
                undecodable += 1
            else:
                answers[result.label, result.top[0]] += 1
                in_top[result.label] += result.label in result.top[:TOP]
        return cls(tuple(classes), answers, in_top, unanswered, undecodable)

    @property
    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """How many videos of each class (row) were given which class (column), as an array that is made anew.

        Raises:
            DataError: it would be larger than `LARGEST_CONFUSION`.
        """
        count = len(self.classes)
        if 8 * count**2 > LARGEST_CONFUSION:
            raise DataError(
                f"the confusion matrix of {count:,} classes would take {8 * count**2 / 2**30:.1f} GiB; "
                "Evaluation.answers and confusion.csv have its numbers without the zeros."
            )
        matrix = np.zeros((count, count), np.int64)
        for pair, number in self.answers.items():
            matrix[pair] = number
        return matrix

    @property
    def class_videos(self) -> Int[np.ndarray, " classes"]:
        """How many videos of each class were counted."""
        counts = self.unanswered.copy()
        for (label, _), number in self.answers.items():
            counts[label] += number
        return counts

    @property
    def class_right(self) -> Int[np.ndarray, " classes"]:
        """How many videos of each class were given it."""
        return np.array([self.answers.get((label, label), 0) for label in range(len(self.classes))], np.int64)

    @property
    def videos(self) -> int:
        """How many videos were counted."""
        return sum(self.answers.values()) + int(self.unanswered.sum())

    @property
    def top1(self) -> float:
        """Share of videos whose class came first."""
        return float(self.class_right.sum()) / max(1, self.videos)

    @property
    def top5(self) -> float:
        """Share of videos whose class was among the best five."""
        return float(self.in_top.sum()) / max(1, self.videos)

    @property
    def class_accuracy(self) -> Float[np.ndarray, " classes"]:
        """Share of each class's videos that were given it; NaN for a class without any."""
        counts = self.class_videos
        return np.divide(self.class_right, counts, out=np.full(len(counts), np.nan), where=counts > 0)

    @property
    def mean_class_accuracy(self) -> float:
        """The mean of `class_accuracy` over the classes that have videos."""
        accuracies = self.class_accuracy
        return float(np.nanmean(accuracies)) if not np.isnan(accuracies).all() else 0.0

    def summary(self) -> dict[str, float]:
        """The numbers of results.json, by name."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "videos": self.videos,
            "unanswered": int(self.unanswered.sum()),
            "undecodable": self.undecodable,
        }
