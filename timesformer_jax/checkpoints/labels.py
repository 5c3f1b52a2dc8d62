"""Reads the names of classes from a file, for checkpoints that don't hold them and for lists of videos."""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..support.distributed import announce
from ..support.files import without_repeated_keys

_NAME_COLUMNS = (
    *("name", "classname", "labelname", "displayname", "actionname", "categoryname", "category", "action"),
    *("activity", "label", "class"),
)
_NUMBER_COLUMNS = (
    *("id", "index", "idx", "number", "classid", "classindex", "classidx", "labelid", "labelindex"),
    *("categoryid", "actionid", "target", "label", "class", ""),
)
"""Words in the heading of a table of classes, the more telling first; pandas leaves its index without a name."""

_LONE_HEADINGS = {"name", "names", "label", "labels", "class", "classes", "classname", "classnames", "labelname"}

_NUMBER_FIRST = re.compile(r"(\d+)(?:\s*[:,;\t)]\s*|\.\s+|\s+)(\S.*)")
_NUMBER_LAST = re.compile(r"(.*[^\s,;:])(\s*[:,;\t]\s*|\s+)(\d+)")


@dataclass(frozen=True)
class ClassFile:
    """The names of classes, as a file has them.

    Attributes:
        names: the names, in the order of the classes.
        first: the number that the file gives the first class: 1 in UCF-101's classInd.txt. Where it has none, 0.
    """

    names: tuple[str, ...]
    first: int = 0


def read_labels(path: str | PathLike[str]) -> dict[int, str]:
    """Reads the names of classes, by index from 0 on; `read_class_file` says from which files.

    Raises:
        CheckpointError: the file can't be read, or does not name each class once.
    """
    return dict(enumerate(read_class_file(path).names))


def read_class_file(path: str | PathLike[str]) -> ClassFile:
    """Reads the names of classes.

    Args:
        path: a text file with a name on each line, in the order of the classes, or with the classes' numbers before or
            behind the names (0 abseiling; 1: bend/bow), or a table with a heading (id,name); or JSON: a list of names,
            {"0": name, ...} or {name: 0, ...} (the layout of the lists that come with Something-Something and
            Kinetics). Numbers count from 0 or from 1, without gaps. A name may stand in double quotes.

    Raises:
        CheckpointError: the file can't be read, or does not name each class once.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is no text: a file of labels has one name on each line, or is JSON.") from None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            pairs = _from_json(json.loads(text, object_pairs_hook=without_repeated_keys))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} holds no JSON of labels ({error}).") from None
    else:
        pairs = _from_text(path, [line.strip() for line in text.rstrip().split("\n")]) if text.strip() else []
    return _in_order(path, [(number, unquoted(name)) for number, name in pairs])


def unquoted(name: str) -> str:
    """A name without the quotes around it, such as pytorchvideo's kinetics_classnames.json has inside of JSON's own."""
    name = name.strip()
    inner = name[1:-1].replace('""', "")
    if len(name) > 2 and name[0] == name[-1] == '"' and '"' not in inner:
        return name[1:-1].replace('""', '"').strip()
    return name


def whole_number(text: str) -> int | None:
    """The number that a text stands for, 3 for "3", "03" and "3.0"; None if it is no whole number from 0 on."""
    whole, _, rest = text.partition(".")
    return int(whole) if whole.isdecimal() and not rest.strip("0") else None


def _in_order(path: str | PathLike[str], pairs: Sequence[tuple[int, str]]) -> ClassFile:
    names: dict[int, str] = {}
    for number, name in pairs:
        if number in names:
            raise CheckpointError(f"{path} names class {number} twice ({names[number]!r} and {name!r}).")
        names[number] = name
    first = 1 if names and min(names) == 1 else 0
    expected = range(first, first + len(names))
    if not names or set(names) != set(expected):
        missing = next((number for number in expected if number not in names), None)
        detail = "" if missing is None else f"; it has no class {missing}"
        raise CheckpointError(f"{path} must name the classes 0 to {max(len(names) - 1, 0)}, each once{detail}.")
    if "" in names.values():
        empty = next(number for number in expected if not names[number])
        raise CheckpointError(f"{path} has no name for class {empty} (an empty line?).")
    if first == 1:
        announce(f"{path} counts its classes from 1: {names[1]!r} is class 0 here.")
    return ClassFile(tuple(names[number] for number in expected), first)


def _from_json(values: Any) -> list[tuple[int, str]]:
    if isinstance(values, list) and values and all(isinstance(value, dict) for value in values):
        header = list(values[0])
        rows = [[str(value.get(key, "")) for key in header] for value in values]
        found = _from_columns([header, *rows])
        if found is None:
            raise ValueError("a list of classes is a list of names, or has an id and a name for each")
        return found
    pairs: list[tuple[Any, Any]] = list(enumerate(values) if isinstance(values, list) else values.items())
    numbered = [whole_number(str(index)) for index, _ in pairs]
    if None in numbered or (pairs and all(type(name) is int for _, name in pairs)):
        pairs = [(index, name) for name, index in pairs]
        numbered = [whole_number(str(index)) for index, _ in pairs]
    labels = {number: name for number, (_, name) in zip(numbered, pairs, strict=True) if number is not None}
    if len(labels) != len(pairs) or not all(isinstance(name, str) for name in labels.values()):
        raise ValueError("each class needs one name, a text")
    return list(labels.items())


def _from_text(path: str | PathLike[str], lines: Sequence[str]) -> list[tuple[int, str]]:
    """Takes the lines of a text apart, where they have numbers.

    Raises:
        CheckpointError: some lines have numbers and others none, or the numbers have gaps.
    """
    if lines[0].startswith("item {") or lines[0] == "item":
        raise CheckpointError(f"{path} is a label map (pbtxt), which is not read; write a name on each line, or JSON.")
    for separator in (",", "\t", ";", " "):
        try:
            rows = list(csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True))
        except csv.Error:
            continue
        if separator == " " and rows and len(rows[0]) == 2:  # a name may have spaces, with its number before it
            rows = [rows[0], *(line.split(maxsplit=1) for line in lines[1:])]
        found = _from_columns([row for row in rows if row])
        if found is not None:
            return found
    if _word(lines[0]) in _LONE_HEADINGS:
        raise CheckpointError(
            f"{path}, line 1: {lines[0]!r} looks like the heading of a column; remove it (as the name of a class it "
            "can stand in a JSON list)."
        )
    first = [_NUMBER_FIRST.fullmatch(line) for line in lines]
    last = [_NUMBER_LAST.fullmatch(line) for line in lines]
    for pairs, certain in (
        ([(int(match[1]), match[2]) for match in first if match], True),
        ([(int(match[3]), match[1]) for match in last if match], all(match[2].strip() for match in last if match)),
    ):
        numbers = sorted(number for number, _ in pairs)
        counted = numbers in ([*range(len(pairs))], [*range(1, len(pairs) + 1)])
        if not pairs or len({name for _, name in pairs}) < len(pairs):
            continue  # what stands beside the numbers tells no classes apart: the numbers are a part of the names
        if len(pairs) == len(lines):
            if counted:
                return pairs
            if certain:
                raise CheckpointError(
                    f"{path} numbers its classes {numbers[0]} to {numbers[-1]}, but has {len(numbers)} of them: they "
                    "count from 0 or from 1, without gaps (numbers that are a part of names can stand in a JSON list)."
                )
        elif counted and len(pairs) > 1 and 2 * len(pairs) > len(lines):
            odd = next(i for i, line in enumerate(lines) if line not in {m[0] for m in (*first, *last) if m})
            raise CheckpointError(f"{path}, line {odd + 1}: {lines[odd]!r} has no number, but the other classes have.")
    return list(enumerate(lines))


def _from_columns(rows: Sequence[Sequence[str]]) -> list[tuple[int, str]] | None:
    """Reads a table whose first row says which column has the names and which the numbers; None if it does not."""
    heading = [_word(cell) for cell in rows[0]] if rows else []
    name = next((heading.index(word) for word in _NAME_COLUMNS if word in heading), None)
    number = next((i for i in _places(heading, _NUMBER_COLUMNS) if i != name), None)
    if name is None or number is None or len(rows) < 2 or any(len(row) != len(heading) for row in rows):
        return None
    for numbers, names in ((number, name), (name, number)):  # "class" and "label" may be either
        found = [(whole_number(row[numbers].strip()), row[names]) for row in rows[1:]]
        pairs = [(index, text) for index, text in found if index is not None]
        if len(pairs) == len(found):
            return pairs
    return None


def _places(heading: Sequence[str], words: Iterable[str]) -> Iterable[int]:
    return (heading.index(word) for word in words if word in heading)


def _word(cell: str) -> str:
    return re.sub(r"[\s_-]", "", cell.strip().lstrip("#").lower())
