"""Videos with their labels, by number: what samples are made from, wherever the videos are."""

import abc
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int32, Shaped

from ..video.packets import EncodedVideo
from ..video.reading import Pictures
from .spans import Span, Spans, fragment

__all__ = ["Span", "Videos", "fingerprint", "full_name"]


@dataclass(frozen=True, eq=False)
class Videos(abc.ABC):
    """The videos of a data set.

    Attributes:
        names: the names of the videos in lists and messages, encoded in UTF-8. (An array takes a quarter of the memory
            of a tuple, in each worker process.)
        labels: the class of each video.
        classes: the names of the classes.
        fingerprint: a short text that tells these videos from others by names, spans, labels and classes, wherever they
            are.
        ordered: whether somebody gave the order of the classes (see `Classes`).
        spans: the part of each video that is meant; None where all are whole.
    """

    names: Shaped[np.ndarray, " n"] = field(repr=False)
    labels: Int32[np.ndarray, " n"] = field(repr=False)
    classes: tuple[str, ...]
    fingerprint: str
    ordered: bool = field(default=False, kw_only=True)
    spans: Spans | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def files(self) -> int:
        """How many different files the videos are, or are parts of."""
        return len(np.unique(self.names))

    def file(self, index: int) -> str:
        """The name of a video without its span: videos with one such name are parts of the same."""
        return self.names[index].decode()

    def name(self, index: int) -> str:
        """The name of a video, with its span where it is a part of one: x.mp4#t=2.5,10."""
        return full_name(self.file(index), self.span(index))

    def span(self, index: int) -> Span | None:
        """The part of the video that is meant; None if it is the whole."""
        return None if self.spans is None else self.spans[index]

    def label(self, index: int) -> int:
        """The class of a video."""
        return int(self.labels[index])

    @abc.abstractmethod
    def open(self, index: int) -> str | EncodedVideo | Pictures:
        """Opens a video for `read_by_rule`.

        Raises:
            VideoError: it can't be fetched.
        """


def full_name(name: str, span: Span | None) -> str:
    """A name that tells the parts of a video apart."""
    return name if span is None else f"{name}#{fragment(span)}"


def fingerprint(names: Sequence[str], labels: Int32[np.ndarray, " n"], classes: Sequence[str]) -> str:
    """Makes a short text that tells one data set from another."""
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(labels.tobytes() + json.dumps(list(classes)).encode())
    return digest.hexdigest()[:16]
