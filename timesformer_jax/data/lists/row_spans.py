"""Reads which part of a video the rows of a list mean."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...checkpoints.labels import whole_number
from ...errors import DataError
from ...support.distributed import announce
from ..videos import Span
from .rows import ListRows
from .templates import Template

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
"""A number, as programs write it."""

_LOOKED_AT = 20
"""How many rows tell whether the names of the files have the times in them."""


@dataclass(frozen=True)
class RowSpans:
    """Reads which part of a video each row means."""

    rows: ListRows
    columns: dict[str, int]

    @classmethod
    def of(
        cls, rows: ListRows, columns: dict[str, int], chosen: Sequence[int], template: Template | None
    ) -> "RowSpans | None":
        """None where all rows mean whole videos."""
        times = {columns[role] for role in ("start", "end") if role in columns}
        if not times:
            return cls(rows, columns) if "offset" in columns else None
        if template is None:
            found = cls(rows, columns)
            trimmed = all(found.is_in_path(i) for i in chosen[:_LOOKED_AT])
        else:
            trimmed = not times.isdisjoint(template.columns)
        if trimmed and template is None:
            announce(f"{rows.source}: the names of the files have start and end in them, so each is taken whole.")
        return None if trimmed else cls(rows, columns)

    def is_in_path(self, i: int) -> bool:
        """Whether the name of a file has start and end in it, as Kinetics' clips have, which are cut already."""
        if not {"path", "start", "end"} <= set(self.columns):
            return False
        row = self.rows.rows[i]
        start, end = (whole_number(row[self.columns[role]]) for role in ("start", "end"))
        return start is not None and end is not None and f"_{start:06d}_{end:06d}" in row[self.columns["path"]]

    def span(self, i: int) -> Span | None:
        """The part that a row means; None if it is the whole video."""
        if "offset" in self.columns:
            offset, frames = self._whole(i, "offset") or 0, self._whole(i, "frames")
            if frames == 0:
                raise DataError(f"{self.rows.source}, {self.rows.where(i)} has 0 frames.")
            return Span(offset, None if frames is None else offset + frames, "frames")
        start, end = self._seconds(i, "start") or 0.0, self._seconds(i, "end")
        if end is not None and not start < end:
            raise DataError(
                f"{self.rows.source}, {self.rows.where(i)}: the end ({end:g}) is not after the start ({start:g})."
            )
        return None if start == 0 and end is None else Span(start, end)

    def _cell(self, i: int, role: str) -> str:
        return self.rows.rows[i][self.columns[role]] if role in self.columns else ""

    def _seconds(self, i: int, role: str) -> float | None:
        cell = self._cell(i, role)
        if cell and not (NUMBER.fullmatch(cell) and 0 <= float(cell) < math.inf):
            raise DataError(f"{self.rows.source}, {self.rows.where(i)}: the {role} {cell!r} is no number of seconds.")
        return float(cell) if cell else None

    def _whole(self, i: int, role: str) -> int | None:
        cell = self._cell(i, role)
        number = whole_number(cell)
        if cell and number is None:
            raise DataError(f"{self.rows.source}, {self.rows.where(i)}: the {role} {cell!r} is no number of frames.")
        return number
