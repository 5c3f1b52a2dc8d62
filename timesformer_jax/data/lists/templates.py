"""Paths of videos that are made from the columns of a list, as Kinetics' are."""

import string
from collections.abc import Callable, Sequence

from ...errors import DataError
from .columns import plain

KINETICS = "{{{name}}}_{{{start}:06d}}_{{{end}:06d}}.mp4"
"""Makes the template of the names of the columns: "{youtube_id}_{time_start:06d}_{time_end:06d}.mp4", as the programs
that download Kinetics call a clip."""

_Piece = tuple[str, int | None, str]
"""A text, the column whose value follows it, and how a number is written there."""


def compile_template(template: str, columns: Sequence[str], source: str) -> "Template":
    """Takes a template apart.

    Args:
        template: a path with names of columns in braces, numbers with a format: "{youtube_id}_{time_start:06d}.mp4".
        columns: the names of the columns.
        source: what messages call the list.

    Raises:
        DataError: it is no template, or names a column that is not there.
    """
    given = [plain(name) for name in columns]
    pieces: list[_Piece] = []
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"--data.video-template {template!r} is no template ({error}).") from None
    for text, name, form, conversion in parsed:
        if name is not None and (plain(name) not in given or conversion is not None):
            raise DataError(
                f"--data.video-template {template!r}: {source} has no column {name!r} (it has {', '.join(columns)})."
            )
        pieces.append((text, None if name is None else given.index(plain(name)), form or ""))
    if all(column is None for _, column, _ in pieces):
        raise DataError(f"--data.video-template {template!r} names no column in braces ({', '.join(columns)}).")
    return Template(template, tuple(pieces))


class Template:
    """A template of paths.

    Attributes:
        text: the template.
        columns: the numbers of the columns that it uses.
    """

    def __init__(self, text: str, pieces: tuple[_Piece, ...]) -> None:
        """Keeps a template that `compile_template` took apart."""
        self.text = text
        self._pieces = pieces
        self.columns = {column for _, column, _ in pieces if column is not None}

    def path(self, row: Sequence[str], where: Callable[[], str]) -> str:
        """Makes the path of a row; `where` says which row that is.

        Raises:
            DataError: a value is missing, or is no number where the template writes one.
        """
        parts: list[str] = []
        for text, column, form in self._pieces:
            parts.append(text)
            if column is None:
                continue
            if not row[column]:
                raise DataError(f"{where()} has nothing in a column that the template {self.text!r} needs.")
            parts.append(_written(row[column], form, where) if form else row[column])
        return "".join(parts)


def _written(value: str, form: str, where: Callable[[], str]) -> str:
    try:
        number = float(value)
        return format(int(number) if form[-1] in "dxX" and number.is_integer() else number, form)
    except (ValueError, OverflowError):
        raise DataError(f"{where()}: {value!r} can't be written as the template's {form!r} says.") from None
