"""The rows of a list, whatever kind of file it is: texts in columns with names."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListRows:
    """The rows of a list, taken apart into texts.

    Attributes:
        source: what messages call the file.
        columns: the names of the columns.
        rows: a text for each column in each row, "" where there is nothing.
        places: the number of each row, as an editor counts lines.
        unit: what the places count.
        unlabelled: whether no row has a label.
    """

    source: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    places: Sequence[int]
    unit: str = "line"
    unlabelled: bool = False

    def where(self, row: int) -> str:
        """The place of a row, for messages."""
        return f"{self.unit} {self.places[row]}"
