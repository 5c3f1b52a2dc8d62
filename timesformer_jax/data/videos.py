"""Videos with their labels, by number: what samples are made from, wherever the videos are."""

import abc
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Int32, Shaped

from ..video.packets import EncodedVideo
from ..video.reading import Pictures


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a video that an entry of a list names.

    Attributes:
        start: where it begins, in seconds, or the number of the first frame (from 0) where `unit` is "frames".
        end: where it ends (not included); None is the video's end.
        unit: what both count.
    """

    start: float
    end: float | None = None
    unit: Literal["seconds", "frames"] = "seconds"


@dataclass(frozen=True, eq=False)
class Videos(abc.ABC):
    """The videos of a data set.

    Attributes:
        names: the names of the videos in lists and messages, encoded in UTF-8. (An array takes a quarter of the memory
            of a tuple, in each worker process.)
        labels: the class of each video.
        classes: the names of the classes.
        fingerprint: a short text that tells these videos from others by names, labels and classes, wherever they are.
    """

    names: Shaped[np.ndarray, " n"] = field(repr=False)
    labels: Int32[np.ndarray, " n"] = field(repr=False)
    classes: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The name of a video."""
        return self.names[index].decode()

    def label(self, index: int) -> int:
        """The class of a video."""
        return int(self.labels[index])

    @abc.abstractmethod
    def open(self, index: int) -> str | EncodedVideo | Pictures:
        """Opens a video for `read_by_rule`.

        Raises:
            VideoError: it can't be fetched.
        """


def fingerprint(names: Sequence[str], labels: Int32[np.ndarray, " n"], classes: Sequence[str]) -> str:
    """Makes a short text that tells one data set from another."""
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(labels.tobytes() + json.dumps(list(classes)).encode())
    return digest.hexdigest()[:16]
