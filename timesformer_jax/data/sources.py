"""Where videos and their labels come from: lists, JSON files, folders, packed shards, told apart by what is inside."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..checkpoints.labels import read_labels
from ..errors import DataError
from ..video.packets import EncodedVideo
from ..video.reading import Pictures
from . import storage
from .config import DataConfig
from .lists import Entry, read_class_folders, read_something_something, read_text_list
from .shards import MANIFEST, PackedVideos
from .videos import Videos, fingerprint

_MOST_CLASSES = 100_000

_LOOKED_FOR = 20
"""How many of a list's first videos are looked for before a wrong root is assumed."""


@dataclass(frozen=True, eq=False)
class DataSets:
    """The videos to train and to evaluate on, with their lists read.

    Attributes:
        train: the training videos; None where the settings name none.
        validation: the validation videos, which have the classes of the training videos; None where there are none.
    """

    train: Videos | None
    validation: Videos | None

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each of them, by name."""
        videos = {"train": self.train, "validation": self.validation}
        return {name: given.fingerprint for name, given in videos.items() if given is not None}


def open_data(config: DataConfig) -> DataSets:
    """Reads the lists of videos that the settings name, each once.

    Raises:
        DataError: a list can't be used.
    """
    train = validation = known = None
    if config.train is not None:
        train = read_videos(config.train, root=config.root, classes=config.classes)
        known = train.classes
    if config.validation is not None:
        validation = read_videos(config.validation, root=config.root, classes=config.classes, known=known)
    return DataSets(train, validation)


@dataclass(frozen=True, eq=False)
class VideoFiles(Videos):
    """Videos in files, or in folders of pictures; their names are paths as listed.

    Attributes:
        root: folder or URL that the paths are relative to.
    """

    root: str

    def open(self, index: int) -> str | EncodedVideo | Pictures:
        """Opens a video for `read_by_rule`."""
        return storage.video(storage.join(self.root, self.name(index)))


def read_videos(
    source: str,
    *,
    root: str | None = None,
    classes: str | None = None,
    known: Sequence[str] | None = None,
) -> Videos:
    """Reads the videos of a list, a JSON file, a folder of class folders, or a folder of packed shards.

    Args:
        source: path or URL.
        root: folder that the paths in a list are relative to; when None the list's own folder.
        classes: file of class names.
        known: classes that the labels must be of, such as those of the training videos.

    Raises:
        DataError: the source is none of these, or contradicts itself.
    """
    if not source:
        raise DataError("No videos are given: name a list, a folder of class folders, or a folder of packed shards.")
    if not storage.exists(source):
        raise DataError(f"{source} does not exist.")
    names = tuple(known) if known else tuple(read_labels(classes).values()) if classes else None
    if storage.is_folder(source):
        if storage.exists(storage.join(source, MANIFEST)):
            videos = PackedVideos.open_folder(source)
            if names and videos.classes != names:
                raise DataError(f"{source} was packed with other classes than {classes or 'those of training'}.")
            return videos
        entries = read_class_folders(source)
        return video_files(entries, source, names or sorted({entry.label for entry in entries}), source)
    text = storage.read_text(source)
    root = root or storage.parent(source)
    if text.lstrip()[:1] in ("[", "{"):
        entries, root = read_something_something(source, text, root)
        if names is None:
            names = _something_something_classes(source)
    else:
        entries = read_text_list(source, text)
    return video_files(entries, root, names, source)


def video_files(entries: Sequence[Entry], root: str, classes: Sequence[str] | None, source: str) -> VideoFiles:
    """Makes videos from the entries of a list.

    Args:
        entries: the lines of the list.
        root: folder or URL that the paths are relative to.
        classes: names of the labels; when None the names in the list, sorted, or its numbers.
        source: what messages call the list.

    Raises:
        DataError: there are none, one stands there twice, a label is unknown, or none of the files is there.
    """
    if not entries:
        raise DataError(f"{source} lists no videos.")
    seen: dict[str, str] = {}
    for entry in entries:
        if entry.path in seen:
            raise DataError(f"{source} lists {entry.path} twice ({seen[entry.path]} and {entry.where}); remove one.")
        seen[entry.path] = entry.where
    numbers = _class_numbers(entries, classes, source)
    classes = tuple(numbers)
    labels: list[int] = []
    for entry in entries:
        label = _class_of(entry.label, numbers)
        if label is None:
            known = ", ".join(classes[:3])
            raise DataError(
                f"{source}, {entry.where}: label {entry.label!r} is none of the {len(classes)} classes ({known}, ...)."
            )
        labels.append(label)
    first = [storage.join(root, entry.path) for entry in entries[:_LOOKED_FOR]]
    if not any(storage.exists(path) for path in first):
        raise DataError(f"{source}: none of its first {len(first)} videos exists ({first[0]}, ...); is the root right?")
    paths, numbered = [entry.path for entry in entries], np.array(labels, np.int32)
    encoded = np.array([path.encode() for path in paths])
    return VideoFiles(encoded, numbered, classes, fingerprint(paths, numbered, classes), root)


def _class_numbers(entries: Sequence[Entry], classes: Sequence[str] | None, source: str) -> dict[str, int]:
    """Gives each class its number."""
    if classes is not None:
        return {name: number for number, name in enumerate(classes)}
    names = {entry.label for entry in entries}
    numbered = {name for name in names if name.removeprefix("-").isdecimal()}
    if numbered and numbered != names:
        odd = next(entry for entry in entries if entry.label not in numbered)
        raise DataError(f"{source}, {odd.where}: label {odd.label!r} is a name, but others are numbers; use one kind.")
    if not numbered:
        return {name: number for number, name in enumerate(sorted(names))}
    for entry in entries:
        if not 0 <= int(entry.label) < _MOST_CLASSES:
            raise DataError(f"{source}, {entry.where}: label {entry.label} is out of range; classes count from 0.")
    return {str(number): number for number in range(1 + max(int(name) for name in names))}


def _class_of(label: str, numbers: dict[str, int]) -> int | None:
    """The number of the class that a label names or is the number of; None if there is no such class."""
    if label in numbers or not label.isdecimal():
        return numbers.get(label)
    return int(label) if int(label) < len(numbers) else None


def _something_something_classes(source: str) -> tuple[str, ...]:
    folder = storage.parent(source)
    for name in ("something-something-v2-labels.json", "labels.json"):
        if storage.exists(storage.join(folder, name)):
            return tuple(read_labels(storage.join(folder, name)).values())
    raise DataError(f"{source} needs the file of its classes beside it (labels.json), or named by --data.classes.")
