"""Cuts the lines of a list at one kind of separator."""

import csv
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .entry import VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Split:
    """The lines of a list, cut at one kind of separator.

    Attributes:
        separator: what they are cut at.
        rows: the columns of each.
        places: the numbers of the lines.
        lines: the lines as they are; "" where there are quotes.
        broken: where there are quotes that can't be made sense of, the number of the line.
    """

    separator: str
    rows: list[list[str]]
    places: list[int]
    lines: list[str]
    broken: int | None = None


def split_lines(lines: list[tuple[int, str]], separator: str) -> Split:
    """Cuts numbered lines at a separator."""
    split = Split(separator, [], [], [])
    rest = iter(lines)
    for number, line in rest:
        quoted = '"' in line or (line[0] == "'" and line.count("'") > 1)
        try:
            row = _quoted(line, rest, separator) if quoted else line.split(separator)
        except csv.Error:
            return dataclasses.replace(split, broken=number)
        row = [cell.strip() for cell in row]
        if separator == " " and "" in row:
            row = [cell for cell in row if cell]
        if any(row):
            split.rows.append(row)
            split.places.append(number)
            split.lines.append("" if quoted else line)
    return split


def _quoted(line: str, rest: Iterator[tuple[int, str]], separator: str) -> list[str]:
    """Cuts a line with quotes, which may go on in the next."""
    if line[0] == "'":
        try:
            return next(csv.reader([line], delimiter=separator, quotechar="'", skipinitialspace=True, strict=True))
        except csv.Error:  # an apostrophe
            if '"' not in line:
                return line.split(separator)
    following = (further + "\n" for _, further in rest)
    lines = itertools.chain([line + "\n"], following)
    return next(csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True))


def is_even(split: Split) -> bool:
    """Whether all rows have as many columns."""
    return split.broken is None and all(len(row) == len(split.rows[0]) for row in split.rows)


def joined_path(line: str, separator: str, exists: Callable[[str], bool]) -> list[str] | None:
    """Takes what stands before a class number for a path with separators in it; None if it may be something else."""
    path, _, label = line.rpartition(separator)
    path, label = path.strip(), label.strip()
    if not label.isdecimal() or not path:
        return None
    parts = [part.strip() for part in path.split(separator)]
    if is_video(path):
        certain = not any(map(is_video, parts[:-1]))
    else:
        certain = not any(is_video(part) or is_number(part) or not part for part in parts[1:]) and not is_video(
            parts[0]
        )
    return [path, label] if certain or exists(path) else None


def asked_once(exists: Callable[[str], bool]) -> Callable[[str], bool]:
    """Gives the answer for the first path for all: paths of one list have one form."""
    answers: list[bool] = []

    def ask(path: str) -> bool:
        if not answers:
            answers.append(exists(path))
        return answers[0]

    return ask


def is_number(text: str) -> bool:
    """Whether a text is a number in digits."""
    return text.removeprefix("-").replace(".", "", 1).isdecimal()


def is_video(path: str) -> bool:
    """Whether a path ends as those of video files do."""
    return path[path.rfind(".") :].lower() in VIDEO_SUFFIXES
