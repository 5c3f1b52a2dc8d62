"""Which rows of a checkpoint's classifier are kept where the classes asked for are not those it was trained on."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

_NAMED = 5
"""So many classes are named in a remark."""


@dataclasses.dataclass(frozen=True)
class ClassRows:
    """What becomes of the rows of a classifier, one for each class.

    Attributes:
        rows: of each class asked for, the class of the checkpoint whose row it keeps; None where its row is new.
        remark: says what was done; None where every class keeps the row of its number and nothing needs to be said.
    """

    rows: tuple[int | None, ...]
    remark: str | None = None

    @property
    def as_before(self) -> bool:
        """Whether every class keeps the row of its number."""
        return self.rows == tuple(range(len(self.rows)))

    @property
    def all_new(self) -> bool:
        """Whether no class keeps a row."""
        return all(row is None for row in self.rows)

    def arrange(self, leaf: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Puts the kept rows of a leaf, which lie along its last axis, in their places among new ones."""
        arranged, places = new.copy(), [place for place, row in enumerate(self.rows) if row is not None]
        arranged[..., places] = leaf[..., [row for row in self.rows if row is not None]]
        return arranged


def match_rows(found: Mapping[int, str], wanted: Mapping[int, str]) -> ClassRows:
    """Finds the rows of the classes wanted by their names; by number where one side has nothing but numbers.

    Names match where they are equal, or else where only capitals, spaces, hyphens and underscores differ.

    Args:
        found: names of the checkpoint's classes, by number.
        wanted: names of the classes asked for, by number.
    """
    old, new = [found[i] for i in range(len(found))], [wanted[i] for i in range(len(wanted))]
    if old == new:
        return ClassRows(tuple(range(len(new))))
    if len(old) != len(new) and (_numbers(old) or _numbers(new)):
        return ClassRows((None,) * len(new))  # LABEL_0 of three classes is not that of seven
    if len(old) == len(new) and _count_from_0(old) != _count_from_0(new):
        numbered = old if _count_from_0(old) else new
        order = {int(number): place for place, number in enumerate(map(_plain, numbered))}
        places = [order[i] for i in range(len(order))]  # class i of the named side is at this place of the numbered one
        rows = tuple(places) if numbered is old else tuple(int(_plain(name)) for name in new)
        return ClassRows(rows, f"classifier: rows kept by number, {_pairs(old, new, rows)}")
    rows = _by_name(old, new)
    known = [row for row in rows if row is not None]
    if not known:
        return ClassRows(rows, f"classifier: it knows none of the classes {_listed(new)}; it knows {_listed(old)}")
    if len(known) < len(rows):
        unknown = [name for name, row in zip(new, rows, strict=True) if row is None]
        remark = f"classifier: rows of {len(known)} of {len(rows)} classes follow their names"
        return ClassRows(rows, f"{remark}; new, to be trained: those of {_listed(unknown)}")
    respelled = tuple(
        row if row is not None and old[row] != name else None for name, row in zip(new, rows, strict=True)
    )
    pairs = _pairs(old, new, respelled)
    return ClassRows(rows, "classifier: rows follow the names of the classes" + (f", {pairs}" if pairs else ""))


def _by_name(old: Sequence[str], new: Sequence[str]) -> tuple[int | None, ...]:
    rows: list[int | None] = [None] * len(new)
    for form in (_plain, _folded):
        taken = set(rows)
        left = {i: form(name) for i, name in enumerate(old) if i not in taken}
        asked = {place: form(name) for place, name in enumerate(new) if rows[place] is None}
        # A name that stands twice tells nothing.
        often = {name for names in (left, asked) for name, count in Counter(names.values()).items() if count > 1}
        known = {name: i for i, name in left.items() if name not in often}
        for place, name in asked.items():
            rows[place] = known.get(name)
    return tuple(rows)


def _plain(name: str) -> str:
    """A name; of one that Transformers makes up, the number."""
    number = name.removeprefix("LABEL_")
    return number if number.isdecimal() else name


def _folded(name: str) -> str:
    return " ".join(_plain(name).casefold().replace("_", " ").replace("-", " ").split())


def _numbers(names: Sequence[str]) -> bool:
    return all(_plain(name).isdecimal() for name in names)


def _count_from_0(names: Sequence[str]) -> bool:
    """Whether the names are the numbers from 0 on, in any order."""
    return _numbers(names) and sorted(int(_plain(name)) for name in names) == list(range(len(names)))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def _pairs(old: Sequence[str], new: Sequence[str], rows: Sequence[int | None]) -> str:
    pairs = [f"{name!r} from {old[row]!r}" for name, row in zip(new, rows, strict=True) if row is not None]
    return ", ".join(pairs[:_NAMED]) + (f" and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else "")
