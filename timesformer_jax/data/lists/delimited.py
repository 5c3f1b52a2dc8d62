"""Takes the lines of a list apart: what stands between columns, whether the first line names them."""

from collections.abc import Callable, Sequence
from typing import NoReturn

from ...errors import DataError
from ...support.distributed import announce
from .columns import is_heading
from .cutting import Split, asked_once, is_even, is_number, is_video, joined_path, split_lines
from .rows import ListRows

_SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", " ": "a space"}


def read_lines(source: str, text: str, exists: Callable[[str], bool]) -> ListRows:
    """Reads a list that is a text: columns with a comma, a tab, a semicolon or spaces between.

    The first line may name the columns. Without names a line has a path and a label; in mmaction2's lists of folders of
    pictures a path, the number of frames (before it that of the first) and a label. What has separators in it stands
    in quotes, double or single; a path with separators needs none before a class number.

    Args:
        source: what messages call the list.
        text: the contents of the list.
        exists: says whether there is a video of a path in the list; asked for few, where the text leaves a doubt.

    Raises:
        DataError: the lines can't be taken apart; the message names the first that does not fit.
    """
    if "\0" in text:
        raise DataError(f"{source} is no text (it has a zero byte), so it is no list of videos.")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    numbered = [(number, line.strip(" ")) for number, line in enumerate(lines, 1) if line.strip()]
    numbered = _without_comments(source, numbered, exists)
    if not numbered:
        return ListRows(source, ("path", "label"), [], [])
    splits = [split_lines(numbered, separator) for separator in _SEPARATORS if separator in text]
    splits = [split for split in splits if any(len(row) > 1 for row in split.rows)]
    headed = [split for split in splits if is_heading(split.rows[0]) and not any(map(is_video, split.rows[0]))]
    if headed:
        return _headed(source, max(headed, key=lambda split: (is_even(split), len(split.rows[0]))), exists)
    return _pairs(source, splits, exists) or _frames(source, splits) or _refuse(source, numbered, splits)


def _without_comments(
    source: str, lines: list[tuple[int, str]], exists: Callable[[str], bool]
) -> list[tuple[int, str]]:
    """Leaves out the lines above the first row that begin with #, but not one that names the columns, or a video."""
    for comments, (number, line) in enumerate(lines):
        words = line.replace(",", " ").replace(";", " ").split()
        if line.startswith("#") and not any(map(is_video, words)):
            if is_heading(words):
                return [(number, line.lstrip("# ")), *lines[comments + 1 :]]
            if not exists(words[0]) and not exists(" ".join(words[:-1])):
                continue
        if comments:
            announce(f"{source}: {comments} lines at the top begin with # and are left out.")
        return lines[comments:]
    return []


def _headed(source: str, split: Split, exists: Callable[[str], bool]) -> ListRows:
    """Makes the table of rows below names."""
    _require_whole(source, split)
    columns, *rows = split.rows
    exists = asked_once(exists)
    for i, row in enumerate(rows):
        if len(row) == len(columns):
            continue
        place = split.places[i + 1]
        while len(row) > len(columns) and not row[-1]:
            row.pop()
        if len(columns) == 2 and len(row) > 2 and (joined := joined_path(split.lines[i + 1], split.separator, exists)):
            rows[i] = joined
        elif len(row) != len(columns):
            several = " (what has the separator in it stands in quotes)" if len(row) > len(columns) else ""
            raise DataError(
                f"{source}, line {place} has {len(row)} columns, but line {split.places[0]} names {len(columns)}: "
                f"{', '.join(columns)}{several}."
            )
    return ListRows(source, tuple(columns), rows, split.places[1:])


def _require_whole(source: str, split: Split) -> None:
    if split.broken is not None:
        raise DataError(
            f"{source}, line {split.broken} has a quote that is not closed, or closed before the column ends (inside "
            "of quotes a quote is written twice)."
        )


def _pairs(source: str, splits: Sequence[Split], exists: Callable[[str], bool]) -> ListRows | None:
    """Reads lines with a path and a label; None if they are something else."""
    whole = [pairs for split in splits if (pairs := _as_pairs(split, None)) is not None]
    if not any(all(is_video(path) for path, _ in rows) for rows, *_ in whole):
        whole = [pairs for split in splits if (pairs := _as_pairs(split, exists)) is not None]
    if not whole:
        return None
    rows, places, _ = whole[0] if len(whole) == 1 else max(whole, key=lambda pairs: _plausibility(pairs, exists))
    (path, label), others = rows[0], rows[1:]
    if not any(is_video(path) for path, _ in rows) and all(is_video(label) for _, label in rows):
        raise DataError(
            f"{source}, line {places[0]}: the paths stand in the second column ({label!r}); name the columns in a "
            "first line: label, path."
        )
    unlike = not is_video(path) and not is_number(label) and all(row[1] != label for row in others)
    if others and unlike and not exists(path):
        announce(f"{source}: line {places[0]} ({path!r}, {label!r}) is taken for the names of the columns.")
        return ListRows(source, (path, label), others, places[1:])
    return ListRows(source, ("path", "label"), rows, places)


_Pairs = tuple[list[list[str]], list[int], bool]
"""Paths and labels, the numbers of their lines, and whether a path needed joining."""


def _as_pairs(split: Split, exists: Callable[[str], bool] | None) -> _Pairs | None:
    """Takes all rows for a path and a label, joining paths if `exists` is given; None where they are not."""
    if split.broken is not None:
        return None
    rows = split.rows
    lengths = {len(row) for row in rows}
    if split.separator == "\t" and lengths != {2}:
        rows = [[cell for cell in row if cell] for row in rows]
    if any(len(row) != 2 for row in rows):
        if exists is None:
            return None
        joined: list[list[str]] = []
        exists = asked_once(exists)
        for row, line in zip(rows, split.lines, strict=True):
            pair = row if len(row) == 2 else joined_path(line, split.separator, exists) if len(row) > 2 else None
            if pair is None:
                return None
            joined.append(pair)
        rows = joined
    if not all(path and label for path, label in rows):
        return None
    return rows, split.places, rows is not split.rows


def _plausibility(pairs: _Pairs, exists: Callable[[str], bool]) -> tuple[int, bool, bool, bool]:
    """Ranks ways to cut a list, where more than one separator fits because paths contain the other.

    The best has most paths that end as videos do; then one that needed nothing joined; then one whose first path
    exists; then one with class numbers.
    """
    rows, _, joined = pairs
    videos = sum(is_video(path) for path, _ in rows)
    return videos, not joined, exists(rows[0][0]), all(row[1].isdecimal() for row in rows[1:])


def _frames(source: str, splits: Sequence[Split]) -> ListRows | None:
    """Reads mmaction2's lists of folders of pictures; None if the lines are something else."""
    for split in splits:
        width = len(split.rows[0])
        if not (width in (3, 4) and is_even(split)):
            continue
        if all(all(map(str.isdecimal, row[1:])) and row[0] and not is_video(row[0]) for row in split.rows):
            what = "a path, a number of frames" if width == 3 else "a path, an offset, a number of frames"
            announce(f"{source}: each line is read as {what} and a label (mmaction2).")
            rows = [[row[0], "0", *row[1:]] if width == 3 else row for row in split.rows]
            return ListRows(source, ("path", "offset", "frames", "label"), rows, split.places)
    return None


def _refuse(source: str, lines: list[tuple[int, str]], splits: Sequence[Split]) -> NoReturn:
    """Says which line is no path and label, and why.

    As many lines as possible fit one separator: the first that does not is the one to look at.
    """
    if not splits:
        number, line = lines[0]
        raise DataError(
            f"{source}, line {number} is no path and label: {line[:80]!r} has one column; between a path and a label "
            f"stands {', '.join(_SEPARATORS.values())}."
        )
    for split in splits:
        if split.broken is not None and all(other.broken is not None for other in splits):
            _require_whole(source, split)
    split = max(splits, key=lambda split: (split.broken is None, sum(len(row) == 2 and all(row) for row in split.rows)))
    rows = split.rows
    width = len(rows[0])
    if width > 2 and len(rows) > 1 and is_even(split) and not all(is_number(cell) for cell in rows[1][1:]):
        raise DataError(
            f"{source} has {width} columns that line {split.places[0]} does not name in known words "
            f"({', '.join(rows[0])[:80]}); name them path, label, start, end or split there."
        )
    usual = width if width in (3, 4) and all(map(str.isdecimal, rows[0][1:])) and not is_video(rows[0][0]) else 2
    misfits = [i for i, row in enumerate(rows) if len(row) != usual or not all(row)]
    place, row = next((split.places[i], rows[i]) for i in [*misfits, 0])
    line = dict(lines)[place][:80]
    path, *others = row
    if len(row) == 1:
        why = f"it has one column, and others are parted by {_SEPARATORS[split.separator]}"
    elif not path:
        why = "there is no path"
    elif not row[-1]:
        why = "there is no label"
    elif all(map(is_number, others)):
        why = "several labels of a video are not read, and numbers of frames stand behind folders of pictures alone"
    elif split.separator == " ":
        why = "what has spaces needs quotes; several labels of a video are not read"
    else:
        why = f"it has {len(row)} columns, which no first line names"
    raise DataError(f"{source}, line {place} is no path and label: {line!r} ({why}).")
