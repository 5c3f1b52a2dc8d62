"""The classes of a data set, and which of them a label means."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from ..errors import DataError
from .lists.entry import Entry

_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Classes:
    """The names of classes, by number.

    Attributes:
        names: the names.
        ordered: whether somebody gave their order (a file of class names, the features of a data set), so that a number
            in a list means the class at that place. The order of names that only stand in a list, or on folders, is
            made up here.
    """

    names: tuple[str, ...]
    ordered: bool = False

    def number_of(self, label: str) -> int | None:
        """The number of the class that a label names, or is the number of; None if there is no such class."""
        if label in self.names:
            return self.names.index(label)
        if not label.isdecimal():
            return None
        numbers = numbers_of(self.names)
        if numbers is not None:  # then a number is a name: 7 is called 7, wherever it stands
            return numbers.get(int(label))
        return int(label) if self.ordered and int(label) < len(self.names) else None


def numbers_of(names: Sequence[str]) -> dict[int, int] | None:
    """Where each number stands in names that are numbers, each once ("7", "07"); None if they are not."""
    if not all(name.isdecimal() for name in names):
        return None
    places = {int(name): place for place, name in enumerate(names)}
    return places if len(places) == len(names) else None


def given_classes(names: Sequence[str], source: str) -> Classes:
    """The classes of a file that names them in their order.

    Raises:
        DataError: a name stands there twice.
    """
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if name in seen:
            raise DataError(f"{source} names {name!r} twice, as classes {seen[name]} and {number}; remove one.")
        seen[name] = number
    return Classes(tuple(names), ordered=True)


def sorted_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names in order: by value where all are numbers (2 before 10), else by their letters."""
    names = sorted(set(labels))
    return tuple(names if numbers_of(names) is None else sorted(names, key=int))


def number_labels(
    entries: Sequence[Entry], classes: Classes | None, source: str
) -> tuple[Int32[np.ndarray, " n"], Classes]:
    """Gives the label of each entry its number.

    Args:
        entries: the videos.
        classes: what the labels mean; when None the names among them, sorted, or the numbers from 0 to the highest.
        source: what messages call the list.

    Raises:
        DataError: a label is unknown, or some are names and others numbers.
    """
    classes = classes or _classes_among(entries, source)
    numbers: dict[str, int] = {}
    for entry in entries:
        if entry.label in numbers:
            continue
        number = classes.number_of(entry.label)
        if number is None:
            raise DataError(f"{source}, {entry.where}: label {entry.label!r} {_what_is_wrong(entry.label, classes)}.")
        numbers[entry.label] = number
    return np.array([numbers[entry.label] for entry in entries], np.int32), classes


def _what_is_wrong(label: str, classes: Classes) -> str:
    known = ", ".join(classes.names[:3])
    if label.isdecimal() and not classes.ordered and numbers_of(classes.names) is None:
        return (
            f"is a number, but the classes have names ({known}, ...) and nobody says in which order; give "
            "--data.classes with all names in their order"
        )
    return f"is none of the {len(classes.names)} classes ({known}, ...)"


def _classes_among(entries: Sequence[Entry], source: str) -> Classes:
    names = {entry.label for entry in entries}
    numbered = {name for name in names if name.removeprefix("-").isdecimal()}
    if numbered and numbered != names:
        odd = next(entry for entry in entries if entry.label not in numbered)
        raise DataError(f"{source}, {odd.where}: label {odd.label!r} is a name, but others are numbers; use one kind.")
    if not numbered:
        return Classes(tuple(sorted(names)))
    for entry in entries:
        if not 0 <= int(entry.label) < _MOST_CLASSES:
            raise DataError(f"{source}, {entry.where}: label {entry.label} is out of range; classes count from 0.")
    return Classes(tuple(str(number) for number in range(1 + max(int(name) for name in names))))
