"""Facts about videos that all processes of a job must share: how many, which, in which order, with which labels."""

import hashlib

import numpy as np

from ..support.agreement import digest, require_agreement
from .config import DataConfig
from .sources import DataSets
from .videos import Videos

PLACES = ("data.train", "data.validation", "data.root", "data.classes", "data.workers", "data.prefetch")
"""Settings of data that may differ from process to process: where videos are, and how many at once are read."""


def facts_of(videos: Videos, source: str) -> dict[str, str]:
    """Facts about videos, such that each is told apart from those before it."""
    order = np.argsort(videos.names, kind="stable")
    names = _digest(videos.names[order])
    classes = hashlib.sha256("\n".join(videos.classes).encode())
    return {
        f"the number of videos of {source}": str(len(videos)),
        f"the classes of {source}": f"{len(videos.classes)} with the digest {digest(classes)}",
        f"the videos of {source}": f"a list with the digest {names}",
        f"the labels of {source}": f"a list with the digest {_digest(videos.labels[order])}",
        f"the order of {source}": f"a list with the digest {_digest(videos.names)}",
        f"what else {source} says": f"a list with the digest {videos.fingerprint}",
    }


def entries_of(videos: Videos, source: str, fact: str) -> list[str]:
    """The list that a fact about videos is a digest of, entry by entry; none for other facts."""
    names = [name.decode() for name in videos.names]
    order = np.argsort(videos.names, kind="stable")
    lists = {
        f"the classes of {source}": lambda: list(videos.classes),
        f"the videos of {source}": lambda: [names[i] for i in order],
        f"the labels of {source}": lambda: [f"{names[i]} with the label {videos.labels[i]}" for i in order],
        f"the order of {source}": lambda: names,
    }
    return lists[fact]() if fact in lists else []


def require_same_videos(data: DataSets, config: DataConfig) -> None:
    """Checks that all processes of the job read the same videos.

    Raises:
        ConfigError: they don't.
    """
    for source, name, videos in (
        ("--data.train", config.train, data.train),
        ("--data.validation", config.validation, data.validation),
    ):

        def facts(source: str = source, name: str | None = name, videos: Videos | None = videos) -> dict[str, str]:
            given = {source: "not given" if name is None else f"given\n{name}"}
            return given | ({} if videos is None else facts_of(videos, source))

        def entries(fact: str, source: str = source, videos: Videos | None = videos) -> list[str]:
            return [] if videos is None else entries_of(videos, source, fact)

        require_agreement(source, facts, first_alone=True, entries=entries)


def _digest(values: np.ndarray) -> str:
    return digest(hashlib.sha256(np.ascontiguousarray(values).tobytes()))
