"""Makes the entries of a list from its rows: which rows, which files, which labels."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...errors import DataError
from ...support.distributed import announce
from .. import storage
from .columns import is_id, require_columns
from .cutting import is_video
from .entry import Entry
from .row_spans import NUMBER, RowSpans
from .rows import ListRows
from .templates import KINETICS, Template, compile_template

LOOKED_FOR = 20
"""How many videos are looked for before a way to name them is given up."""

_SPLITS = {
    "train": (("train", "training"),),
    "validation": (("val", "validation", "validate", "valid"), ("test", "testing")),
}
"""Which rows a list is read for that is named for training, or for validation; the first that it has."""

_SEVERAL_NUMBERS = re.compile(r"\[.*\]|-?\d+([\s,;|/]+-?\d+)+")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows of a list are read, and what their videos are called.

    Attributes:
        use: what the list was named for; None if for neither.
        split: the split whose rows are read; when None `use` chooses.
        template: a path with names of columns in braces, for lists that name no files.
    """

    use: Literal["train", "validation"] | None = None
    split: str | None = None
    template: str | None = None


def entries_of(rows: ListRows, root: str, choice: Choice) -> list[Entry]:
    """Makes the entries of the rows that are chosen.

    Raises:
        DataError: a value is missing or can't be used; the message names the line.
    """
    columns = require_columns(rows.columns, rows.source, template=choice.template is not None)
    chosen = _rows_of_split(rows, columns.get("split"), choice)
    template = _template(rows, columns, chosen, root, choice)
    spans = RowSpans.of(rows, columns, chosen, template)
    path, label = columns.get("path", -1), columns["label"]
    entries: list[Entry] = []
    unit, places = rows.unit, rows.places
    for i in chosen:
        row = rows.rows[i]
        name = row[path] if template is None else template.path(row, lambda i=i: f"{rows.source}, {rows.where(i)}")
        if not name or not (row[label] or rows.unlabelled):
            raise DataError(f"{rows.source}, {rows.where(i)} has no {'label' if name else 'path'}.")
        if name[0] == "#" and not is_video(name):
            raise DataError(
                f"{rows.source}, {rows.where(i)} begins with #: comments stand above the first row alone, and a folder "
                "of that name is written ./#."
            )
        entries.append(Entry(name, row[label], f"{unit} {places[i]}", None if spans is None else spans.span(i)))
    return entries


def _rows_of_split(rows: ListRows, column: int | None, choice: Choice) -> Sequence[int]:
    """The numbers of the rows of the split that is chosen, which is said."""
    if column is None:
        if choice.split is not None:
            has = ", ".join(rows.columns)
            raise DataError(
                f"{rows.source} has no column of splits (it has {has}), so none is called {choice.split!r}."
            )
        return range(len(rows.rows))
    values = [row[column].lower() for row in rows.rows]
    if "" in values:
        raise DataError(
            f"{rows.source}, {rows.where(values.index(''))} has nothing in the column {rows.columns[column]!r}."
        )
    given = list(dict.fromkeys(values))
    if choice.split is not None:
        wanted = {choice.split.lower()}
    elif len(given) == 1:
        wanted = set(given)
    else:
        wanted = next(
            (set(names) for names in _SPLITS.get(choice.use or "", ()) if not set(names).isdisjoint(given)), set()
        )
    if wanted.isdisjoint(given):
        what = f", none of which is {choice.split!r}" if choice.split is not None else ""
        raise DataError(
            f"{rows.source} has rows of {len(given)} splits ({', '.join(given[:5])}){what}; name one with "
            "--data.train-split or --data.validation-split (--split for packing)."
        )
    taken = ", ".join(name for name in given if name in wanted)
    announce(f"{rows.source}: the rows of split {taken} are taken (it has {', '.join(given[:5])}).")
    return [i for i, value in enumerate(values) if value in wanted]


def _template(
    rows: ListRows, columns: dict[str, int], chosen: Sequence[int], root: str, choice: Choice
) -> Template | None:
    """The template of the paths: what is given, or Kinetics' where there are ids; None where a column has the paths."""
    if choice.template is not None:
        return compile_template(choice.template, rows.columns, rows.source)
    if not is_id(rows.columns[columns["path"]]):
        return None
    if not {"start", "end"} <= set(columns):
        name = rows.columns[columns["path"]]
        raise DataError(
            f"{rows.source} names its videos by {name!r} alone; --data.video-template says what the files are called "
            f"({{{name}}}.mp4, for instance)."
        )
    name, start, end = (rows.columns[columns[role]] for role in ("path", "start", "end"))
    usual = KINETICS.format(name=name, start=start, end=end)
    texts = (usual, f"{{{rows.columns[columns['label']]}}}/{usual}")
    templates = [compile_template(text, rows.columns, rows.source) for text in texts]

    def fits(template: Template) -> bool:
        first = [template.path(rows.rows[i], lambda: rows.source) for i in chosen[:LOOKED_FOR]]
        return any(storage.exists(storage.join(root, path)) for path in first)

    template = next(filter(fits, templates), templates[0])
    announce(f"{rows.source}: the videos are called {template.text}, else give --data.video-template.")
    return template


def with_single_labels(rows: ListRows, entries: list[Entry], classes: Sequence[str]) -> list[Entry]:
    """The entries with whole floats as whole numbers.

    Raises:
        DataError: a label is no whole number, or is several labels.
    """
    read: dict[str, str] = dict.fromkeys((entry.label for entry in entries), "")
    for label in read:
        parts = re.split(r"\s*[,;|]\s*", label)
        if label not in classes and (
            _SEVERAL_NUMBERS.fullmatch(label) or (len(parts) > 1 and all(part in read for part in parts))
        ):
            raise DataError(f"{_place(rows, entries, label)} has several labels ({label}); one for each video is read.")
        read[label] = label
        if label.isdecimal() or label in classes or not NUMBER.fullmatch(label):
            continue
        number = float(label)
        if not number.is_integer():
            raise DataError(f"{_place(rows, entries, label)}: label {label} is no whole number.")
        read[label] = str(int(number))
    if all(label == meant for label, meant in read.items()):
        return entries
    return [dataclasses.replace(entry, label=read[entry.label]) for entry in entries]


def _place(rows: ListRows, entries: Sequence[Entry], label: str) -> str:
    return f"{rows.source}, {next(entry.where for entry in entries if entry.label == label)}"
