"""Reads the data sets of Hugging Face's `datasets`: Arrow files (save_to_disk) and Parquet with a column of videos.

A video is the bytes of a file, its path, or both as {bytes, path}, as the feature `Video` has it. The features in the
files' metadata tell the columns and the names of the classes (https://huggingface.co/docs/datasets).
"""

import json
import math
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ..errors import DataError, VideoError
from ..support.distributed import announce
from ..video.packets import EncodedVideo
from ..video.reading import Pictures
from . import storage
from .classes import Classes, given_classes, number_labels
from .files import encode_names, require_span
from .lists.columns import columns_of
from .lists.entry import Entry
from .spans import Span, Spans
from .tables import Table, open_table
from .videos import Videos, fingerprint, full_name

_PATH_COLUMNS = ("path", "file", "file_name", "filename", "video_path")
_LABEL_COLUMNS = ("label", "labels", "class", "category", "action")

_SPLIT = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val|dev)(?=[-_.])")
"""How the name of a file tells the split that it belongs to."""

_LARGE_GROUP = 2**28


@dataclass(frozen=True, eq=False)
class TableVideos(Videos):
    """The videos in Arrow or Parquet files; their names are the paths, or file and row where it holds the bytes.

    Attributes:
        tables: the files.
        ends: how many rows there are up to the end of each file.
        column: the column of the videos.
        root: folder that paths are relative to.
    """

    tables: tuple[str, ...]
    ends: Int64[np.ndarray, " files"] = field(repr=False)
    column: str
    root: str

    def open(self, index: int) -> str | EncodedVideo | Pictures:
        """Opens a video for `read_by_rule`."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        row = index - int(self.ends[number - 1] if number else 0)
        value = open_table(self.tables[number]).value(self.column, row)
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, value)
        if isinstance(path, bytes):
            data, path = path, None
        if data is not None:
            return EncodedVideo(self.file(index), data)
        if not path:
            raise VideoError(f"{self.file(index)} holds neither a video nor its path.")
        return storage.video(storage.join(self.root, path))


def find_tables(source: str) -> tuple[str, ...]:
    """The Arrow or Parquet files that a path, a pattern or a folder names; none where it is something else.

    Raises:
        DataError: it is a data set of several splits.
    """
    if storage.suffix(source) in (".arrow", ".parquet") and not storage.is_folder(source):
        if storage.is_pattern(source):
            return _local(storage.expand(source), source)
        # A table of paths is a list like others.
        is_here = storage.exists(source) and not storage.is_url(source)
        return (source,) if is_here and open_table(source).holds_videos else ()
    if not storage.is_folder(source):
        return ()
    splits = storage.join(source, "dataset_dict.json")
    if storage.exists(splits):
        names = json.loads(storage.read_text(splits)).get("splits", [])
        raise DataError(f"{source} holds several splits; name the folder of one ({', '.join(map(str, names))}).")
    if all(storage.exists(storage.join(source, name)) for name in ("state.json", "dataset_info.json")):
        return _local(_saved(source), source)
    for folder in (source, storage.join(source, "data")):
        for ending in (".arrow", ".parquet"):
            found = storage.files_in(folder, ending)
            of_splits = {match[1] for file in found if (match := _SPLIT.search(posixpath.basename(file)))}
            if len(of_splits) > 1:
                first = sorted(of_splits)[0]
                raise DataError(
                    f"{source} holds several splits ({', '.join(sorted(of_splits))}); name the files of one, such as "
                    f"'{storage.join(folder, first)}*{ending}'."
                )
            if found:
                return _local(found, source)
    return ()


def _saved(folder: str) -> tuple[str, ...]:
    """The files that `save_to_disk` has written, in their order."""
    file = storage.join(folder, "state.json")
    try:
        state = json.loads(storage.read_text(file))
        names = [str(row["filename"]) for row in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error!r}); save the data set again.") from None
    if state.get("_indices_data_files"):
        raise DataError(f"{folder} keeps the order of its rows in a file of its own; save it with a newer `datasets`.")
    missing = [name for name in names if not storage.exists(storage.join(folder, name))]
    if missing:
        raise DataError(f"{storage.join(folder, missing[0])} is missing; copy the data set again.")
    return tuple(storage.join(folder, name) for name in names)


def _local(files: tuple[str, ...], source: str) -> tuple[str, ...]:
    if any(map(storage.is_url, files)):
        raise DataError(f"{source}: Arrow and Parquet files are read from a mounted file system only; copy them first.")
    return files


def open_tables(files: Sequence[str], root: str, classes: Classes | None, source: str) -> TableVideos:
    """Reads the labels of Arrow or Parquet files.

    Args:
        files: the files.
        root: folder that paths are relative to.
        classes: what the labels mean; when None the features' names, or those among the labels, sorted, or the numbers.
        source: what messages call them.

    Raises:
        DataError: they hold no videos with labels, or pyarrow is not installed.
    """
    tables = [open_table(file) for file in files]
    column, label, names = _columns(tables[0], source)
    entries: list[Entry] = []
    for file, table in zip(files, tables, strict=True):
        if missing := {column, label} - set(table.columns):
            raise DataError(f"{file} has no column {min(missing)!r}, which {files[0]} has.")
        size = table.largest_read(column)
        if size > _LARGE_GROUP:
            announce(
                f"{file}: up to {size >> 20} MB are read for one video (its row groups are large); `timesformer pack` "
                "makes shards that are read fast."
            )
        _require_one_split(table, file)
        paths, spans = table.paths(column), _spans(table)
        as_paths = table.is_text(column)
        for row, value in enumerate(table.read(label)):
            name = (paths[row] if as_paths else None) or _name(file, row, paths[row])
            entry = Entry(name, _label(value, names, file, row), f"row {row}", spans[row] if spans else None)
            require_span(entry, file)
            entries.append(entry)
    if not entries:
        raise DataError(f"{source} holds no videos.")
    own = given_classes(names, source) if names else None
    labels, classes = number_labels(entries, classes or own, source)
    return TableVideos(
        encode_names([entry.path for entry in entries], source),
        labels,
        classes.names,
        fingerprint([full_name(entry.path, entry.span) for entry in entries], labels, classes.names),
        tuple(files),
        np.cumsum([len(table) for table in tables]),
        column,
        root,
        ordered=classes.ordered,
        spans=Spans.of(entry.span for entry in entries),
    )


def _name(file: str, row: int, path: str | None) -> str:
    name = f"{Path(file).name}/{row}"
    return f"{name}/{posixpath.basename(path)}" if path else name


def _columns(table: Table, source: str) -> tuple[str, str, tuple[str, ...]]:
    """The column of videos, that of labels, and the names of the classes where the features tell them."""
    declared = [name for name, kind in table.features.items() if kind.get("_type") == "Video"]
    videos = declared or [name for name in table.columns if table.may_hold_videos(name)]
    files = declared or [name for name in videos if not table.is_text(name)]
    video = next((name for name in ("video", *(files if len(files) == 1 else _PATH_COLUMNS)) if name in videos), None)
    if video is None:
        what = f"several columns of videos ({', '.join(files)}); call one 'video'" if files else "no column of videos"
        raise DataError(f"{source} has {what} (its columns: {', '.join(table.columns)}).")
    named = [name for name, kind in table.features.items() if kind.get("_type") == "ClassLabel"]
    candidates = named or list(table.columns)
    label = next((name for name in _LABEL_COLUMNS if name in candidates), named[0] if len(named) == 1 else None)
    if label is None:
        raise DataError(
            f"{source} has no column of labels with a known name ({', '.join(_LABEL_COLUMNS)}); its columns are "
            f"{', '.join(table.columns)}."
        )
    return video, label, tuple(table.features[label].get("names") or ()) if named else ()


def _spans(table: Table) -> list[Span] | None:
    """The part of the video that each row means; None where no columns say so."""
    found = columns_of(table.columns)
    if "start" not in found:
        return None
    starts = table.read(table.columns[found["start"]])
    ends = table.read(table.columns[found["end"]]) if "end" in found else [None] * len(starts)
    # What is no number fits no span; an end that is not there is the video's.
    numbers = [[value if isinstance(value, int | float) else math.nan for value in column] for column in (starts, ends)]
    return [Span(start, None if given is None else end) for start, end, given in zip(*numbers, ends, strict=True)]


def _require_one_split(table: Table, file: str) -> None:
    splits = set(table.read("split")) if "split" in table.columns else set[Any]()
    if len(splits) > 1:
        raise DataError(
            f"{file} holds several splits ({', '.join(sorted(map(str, splits)))}); save the rows of each by themselves."
        )


def _label(value: Any, names: Sequence[str], file: str, row: int) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise DataError(f"{file}, row {row}: the label is {str(value)[:60]!r}; one class name or number is expected.")
    if not names:
        return str(value)
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(f"{file}, row {row}: label {value} is none of the {len(names)} classes (-1: not known).")
    return names[value]
