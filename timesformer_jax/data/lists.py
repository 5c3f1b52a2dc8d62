"""Parses the lists that data sets come with: text, Something-Something's JSON."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from . import storage
from .videos import Span

VIDEO_SUFFIXES = {
    *(".264", ".265", ".266", ".3g2", ".3gp", ".amv", ".apng", ".asf", ".avc", ".avi", ".dav", ".divx", ".dv", ".f4v"),
    *(".flv", ".gif", ".gxf", ".h261", ".h263", ".h264", ".h265", ".h266", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts"),
    *(".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv"),
    *(".mts", ".mxf", ".nut", ".obu", ".ogg", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".swf", ".ts", ".vob", ".vvc"),
    *(".webm", ".wmv", ".wtv", ".y4m"),
}

HEADINGS = {"label", "labels", "class", "category"}
"""Names of the second column in the heading of a table."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A video in a list.

    Attributes:
        path: the path as listed.
        label: the class name or number as listed.
        where: the place in the list, for messages.
        span: the part of the video that is meant; None if it is the whole.
    """

    path: str
    label: str
    where: str
    span: Span | None = None


def read_text_list(source: str, text: str) -> list[Entry]:
    """Parses a list with a path and a label on each line, between them a space, a tab or a comma (Kinetics).

    A path or a name with spaces stands in quotes, double or single; before a class number it needs none.

    Raises:
        DataError: the lines can't be taken apart.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    separators = {separator: _split(lines, separator) for separator in (",", "\t", " ")}
    fitting = [
        (rows, joined) for rows, joined in separators.values() if all(len(row) == 2 and all(row) for row in rows)
    ]
    if not fitting:
        # As many lines as possible fit one separator: the first that does not is the one to look at.
        rows, _ = max(separators.values(), key=lambda split: sum(len(row) == 2 for row in split[0]))
        number, line = next(lines[i] for i, row in enumerate(rows) if len(row) != 2 or not all(row))
        raise DataError(
            f"{source}, line {number} is no path and label: {line[:80]!r} (what has spaces or commas needs quotes)."
        )
    rows, _ = max(fitting, key=_plausibility)
    if rows and rows[0][1].lower() in HEADINGS:
        lines, rows = lines[1:], rows[1:]
    return [Entry(path, label, f"line {number}") for (number, _), (path, label) in zip(lines, rows, strict=True)]


def _plausibility(split: tuple[list[list[str]], bool]) -> tuple[int, bool, bool]:
    """Ranks ways to split a list, where more than one separator fits because paths contain the other.

    The best has most paths that end as videos do; then one that needed nothing joined; then one with class numbers.
    """
    rows, joined = split
    videos = sum(storage.suffix(path) in VIDEO_SUFFIXES for path, _ in rows)
    return videos, not joined, all(row[1].isdecimal() for row in rows[1:])


def _split(lines: Sequence[tuple[int, str]], separator: str) -> tuple[list[list[str]], bool]:
    """Splits lines into columns; says whether some were joined to a path, as is allowed before a class number."""
    rows: list[list[str]] = []
    joined = False
    for _, line in lines:
        quote = "'" if line[0] == "'" else '"'
        try:
            (row,) = csv.reader([line], delimiter=separator, quotechar=quote, skipinitialspace=True, strict=True)
        except csv.Error:
            row = [line]
        row = [part.strip() for part in row if part.strip()] if separator != "," else [part.strip() for part in row]
        if len(row) > 2 and row[-1].isdecimal() and line[0] != quote:
            path, _, label = line.rpartition(separator)
            row, joined = [path.strip(), label], True
        rows.append(row)
    return rows, joined


def read_something_something(source: str, text: str, root: str) -> tuple[list[Entry], str]:
    """Parses Something-Something V2's JSON: a list of {"id": "78687", "template": "Holding [something] next to ..."}.

    The videos are `id`.webm (or another suffix), or folders of pictures called `id`.

    Args:
        source: what messages call the file.
        text: the contents of the file.
        root: folder of the videos, or of the folder 20bn-something-something-v2 that holds them.

    Returns:
        The videos, with the templates' names as labels, and the folder that they are in.

    Raises:
        DataError: it is something else.
    """
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source} is no valid JSON ({error}).") from None
    if not isinstance(records, list):
        raise DataError(f"{source} is no list of videos, but a JSON object; is it the file of the classes?")
    if storage.is_folder(storage.join(root, "20bn-something-something-v2")):
        root = storage.join(root, "20bn-something-something-v2")
    files = {name if folder else name.rpartition(".")[0]: name for name, folder in storage.list_folder(root)}
    entries: list[Entry] = []
    for number, record in enumerate(records, 1):
        entries.append(_something_something_entry(source, number, record, files))
    return entries, root


def _something_something_entry(source: str, number: int, record: Any, files: dict[str, str]) -> Entry:
    name, template = (record.get("id"), record.get("template")) if isinstance(record, dict) else (None, None)
    if not isinstance(template, str) or not isinstance(name, str | int):
        keys = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise DataError(f'{source}, video {number} has no "id" and "template" (it has: {keys}); test lists have none.')
    label = template.replace("[", "").replace("]", "")
    return Entry(files.get(str(name), f"{name}.webm"), label, f"video {number}")
