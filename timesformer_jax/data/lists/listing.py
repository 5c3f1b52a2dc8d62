"""Reads lists of videos: text, JSON, JSON lines and Parquet, and published lists with rules of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...checkpoints.labels import ClassFile, read_labels, whole_number
from ...errors import DataError
from ...support.distributed import announce
from .. import storage
from .delimited import read_lines
from .entries import LOOKED_FOR, Choice, entries_of, with_single_labels
from .entry import Entry
from .published import (
    count_from_zero,
    hmdb_files,
    name_ucf_classes,
    read_hmdb,
    something_something_entries,
    ucf_test_list,
)
from .records import PARQUET, read_json, read_parquet, rows_of_records

__all__ = ["Choice", "VideoList", "read_list"]


@dataclass(frozen=True, slots=True)
class VideoList:
    """The videos of a list.

    Attributes:
        entries: the videos.
        root: folder or URL that their paths are relative to.
        classes: the names of the classes by number, where the list or a file beside it tells them.
    """

    entries: Sequence[Entry]
    root: str
    classes: tuple[str, ...] | None = None


def read_list(
    source: str,
    *,
    root: str | None = None,
    classes: Sequence[str] | None = None,
    given: ClassFile | None = None,
    choice: Choice | None = None,
) -> VideoList:
    """Reads a list of videos.

    Args:
        source: path or URL of the list, or of the folder of HMDB-51's split files.
        root: folder that the paths are relative to; when None the list's own folder.
        classes: names of the classes, if they are known: such a name is a label as it stands, also if it is a number.
        given: the file of class names, if there is one: labels may count from 1 as it does.
        choice: which rows are read, and what their videos are called.

    Raises:
        DataError: it can't be read; the message names the line.
    """
    choice = choice or Choice()
    if files := hmdb_files(source):
        entries = read_hmdb(source, files, choice.split, choice.use)
        found = VideoList(entries, _root_of_hmdb(source, root, entries))
    else:
        found = _read_file(source, root or storage.parent(source), classes, given, choice)
    _require_first(source, found)
    return found


def _read_file(
    source: str, root: str, classes: Sequence[str] | None, given: ClassFile | None, choice: Choice
) -> VideoList:
    data = storage.read_data(source)
    if data.startswith(PARQUET):
        rows = read_parquet(source, data)
    else:
        text = storage.decode(source, data)
        if text.lstrip()[:1] in ("[", "{"):
            records = read_json(source, text)
            if any("template" in record for record in records):
                if choice.split is not None:
                    raise DataError(f"{source} has no column of splits, so none is called {choice.split!r}.")
                entries, root = something_something_entries(source, records, root)
                return VideoList(entries, root, None if classes else _something_something_classes(source))
            rows = rows_of_records(source, records)
        else:
            rows = ucf_test_list(source, text) or read_lines(
                source, text, lambda path: storage.exists(storage.join(root, path))
            )
    if not rows.rows:
        raise DataError(f"{source} lists no videos.")
    entries = with_single_labels(rows, entries_of(rows, root, choice), classes or ())
    named, names = name_ucf_classes(source, entries, classes)
    if named is entries and classes is not None and given is not None and given.first == 1:
        named = count_from_zero(source, entries, classes, "the file of class names counts from 1")
    if classes is None and names is None:
        _tell_lowest(source, named)
    return VideoList(named, root, names)


def _tell_lowest(source: str, entries: Sequence[Entry]) -> None:
    """Says that no label is 0: the list may count from 1, and 0 be a class too many."""
    labels = {entry.label for entry in entries}
    numbers = [number for label in labels if (number := whole_number(label)) is not None]
    if len(numbers) == len(labels) and min(numbers) > 0:
        announce(f"{source}: the lowest label is {min(numbers)}; classes count from 0, so class 0 has no video here.")


def _require_first(source: str, found: VideoList) -> None:
    """Refuses a list whose first video is missing: it may be no video at all, but something above the list."""
    first, *others = [storage.join(found.root, entry.path) for entry in found.entries[:LOOKED_FOR]]
    if not storage.exists(first) and any(map(storage.exists, others)):
        raise DataError(
            f"{source}, {found.entries[0].where}: {first} does not exist, but other videos do; correct the line, or "
            "remove it if it is no video, or the video is gone."
        )
    span = found.entries[0].span
    if span is None or span.unit == "seconds" or span.end is None or not storage.is_folder(first):
        return
    pictures = len(storage.picture_names(first))
    if pictures < span.end:
        raise DataError(
            f"{source}, {found.entries[0].where}: frames {span.start:g} to {span.end:g} are listed, but {first} has "
            f"{pictures} pictures (several labels of a video are not read)."
        )


def _root_of_hmdb(source: str, root: str | None, entries: Sequence[Entry]) -> str:
    """The folder that has the class folders: that of the split files, or one beside it."""
    folder = source if storage.is_folder(source) else storage.parent(source)
    above = storage.parent(folder)
    folders = [root] if root else [folder, above, storage.join(above, "videos")]
    return next((at for at in folders if entries and storage.exists(storage.join(at, entries[0].path))), folders[0])


def _something_something_classes(source: str) -> tuple[str, ...]:
    folder = storage.parent(source)
    for name in ("something-something-v2-labels.json", "labels.json"):
        if storage.exists(storage.join(folder, name)):
            return tuple(read_labels(storage.join(folder, name)).values())
    raise DataError(f"{source} needs the file of its classes beside it (labels.json), or named by --data.classes.")
