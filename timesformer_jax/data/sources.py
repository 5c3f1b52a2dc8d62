"""Where videos and their labels come from, told apart by what is inside: lists, folders, shards, tables."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..checkpoints.labels import ClassFile, read_class_file
from ..errors import DataError
from . import storage
from .class_folders import read_class_folders
from .classes import Classes, given_classes, sorted_names
from .config import DataConfig
from .files import VideoFiles, video_files
from .hf_datasets import find_tables, open_tables
from .lists.listing import Choice, read_list
from .lists.published import hmdb_files
from .picture_templates import with_picture_template
from .shards import MANIFEST, PackedVideos
from .videos import Videos, fingerprint
from .webdataset import find_tars, open_tars

__all__ = ["DataSets", "VideoFiles", "open_data", "read_videos"]


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


def open_data(config: DataConfig, *, earlier: Sequence[str] = ()) -> DataSets:
    """Reads the lists of videos that the settings name, each once.

    Args:
        config: the settings.
        earlier: the classes of the run that goes on, if there is one.

    Raises:
        DataError: a list can't be used.
    """
    train = validation = known = None
    if config.train is not None:
        choice = Choice("train", config.train_split, config.video_template)
        train = read_videos(config.train, root=config.root, classes=config.classes, earlier=earlier, choice=choice)
        known = Classes(train.classes, train.ordered)
    if config.validation is not None:
        choice = Choice("validation", config.validation_split, config.video_template)
        validation = read_videos(
            config.validation, root=config.root, classes=config.classes, known=known, choice=choice
        )
    train, validation = (
        None if videos is None else with_picture_template(videos, config.picture_template)
        for videos in (train, validation)
    )
    return DataSets(train, validation)


def read_videos(
    source: str,
    *,
    root: str | None = None,
    classes: str | None = None,
    known: Classes | None = None,
    earlier: Sequence[str] = (),
    choice: Choice | None = None,
) -> Videos:
    """Reads the videos of a list, a JSON file, a folder of class folders, shards or a Hugging Face data set.

    Args:
        source: path or URL; shards and tables may be named by a pattern (train-{000..099}.tar, train-*.parquet).
        root: folder that the paths in a list are relative to; when None the list's own folder.
        classes: file of class names.
        known: classes that the labels must be of, such as those of the training videos.
        earlier: class names in the order of the run that goes on, which class folders keep where they have the same.
        choice: which rows of a list are read, and what their videos are called.

    Raises:
        DataError: the source is none of these, or contradicts itself.
    """
    if not source:
        raise DataError("No videos are given: name a list, a folder of class folders, or shards.")
    given = None if classes is None else read_class_file(classes)
    if known is None and given is not None:
        known = given_classes(given.names, str(classes))
    if tars := find_tars(source):
        _require_no_split(source, choice)
        return open_tars(tars, known, source)
    if tables := find_tables(source):
        _require_no_split(source, choice)
        folder = source if storage.is_folder(source) else storage.parent(source)
        return open_tables(tables, root or folder, known, source)
    if not storage.exists(source):
        raise DataError(f"{source} does not exist.")
    if storage.is_folder(source) and not hmdb_files(source):
        metadata = _metadata(source)
        if metadata is None:
            _require_no_split(source, choice)
        if storage.exists(storage.join(source, MANIFEST)):
            return _with_classes(PackedVideos.open_folder(source), known, source, classes)
        if metadata is not None:
            return _listed(metadata, root, known, given, choice)
        entries = read_class_folders(source)
        names = sorted_names(entry.label for entry in entries)
        if set(names) == set(earlier):
            names = tuple(earlier)
        return video_files(entries, source, known or Classes(names), source)
    return _listed(source, root, known, given, choice)


def _require_no_split(source: str, choice: Choice | None) -> None:
    if choice is not None and choice.split is not None:
        raise DataError(f"{source} is no list with a column of splits, so none is called {choice.split!r}.")


def _listed(
    source: str, root: str | None, known: Classes | None, given: ClassFile | None, choice: Choice | None
) -> VideoFiles:
    """The videos of a list."""
    found = read_list(source, root=root, classes=known.names if known else None, given=given, choice=choice)
    if known is None and found.classes is not None:
        known = given_classes(found.classes, source)
    return video_files(found.entries, found.root, known, source)


def _with_classes(videos: Videos, known: Classes | None, source: str, file: str | None) -> Videos:
    """The same videos, their labels being the numbers of known classes."""
    if known is None or videos.classes == known.names:
        return videos if known is None else dataclasses.replace(videos, ordered=known.ordered)
    used = np.unique(videos.labels).tolist()
    numbers = {label: known.number_of(videos.classes[label]) for label in used}
    if None in numbers.values():
        odd = videos.classes[next(label for label in used if numbers[label] is None)]
        raise DataError(
            f"{source} was packed with other classes than {file or 'those of training'}: these lack {odd!r}."
        )
    labels = np.array([numbers[label] for label in videos.labels.tolist()], np.int32)
    names = [videos.name(index) for index in range(len(videos))]
    return dataclasses.replace(
        videos,
        labels=labels,
        classes=known.names,
        fingerprint=fingerprint(names, labels, known.names),
        ordered=known.ordered,
    )


def _metadata(folder: str) -> str | None:
    """The file that says what the videos of a folder are, as Hugging Face's VideoFolder has it; None without one."""
    for name in ("metadata.csv", "metadata.jsonl"):
        file = storage.join(folder, name)
        if storage.exists(file) and "file_name" in storage.read_text(file).partition("\n")[0]:
            return file
    return None
