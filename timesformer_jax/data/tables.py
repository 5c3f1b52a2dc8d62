"""Tables in Arrow and Parquet files, of which single values are read."""

import functools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, VideoError, first_line
from . import storage

_thread = threading.local()
"""Has where the thread is in a Parquet file, so that rows in order are read once."""


class Table:
    """An Arrow or Parquet file.

    Attributes:
        columns: the names of the columns.
        features: what Hugging Face's metadata say of each column; empty where there are none.
    """

    def __init__(self, file: str) -> None:
        """Reads what the file says of itself; the values stay where they are.

        Raises:
            DataError: it is damaged, or pyarrow is not installed.
        """
        arrow, parquet = _pyarrow(file)
        self._file = file
        self._rows: Any = None  # of an Arrow file, mapped into memory
        self._metadata: Any = None  # of a Parquet file
        try:
            if storage.suffix(file) == ".parquet":
                self._metadata = parquet.read_metadata(file)
                self._schema: Any = parquet.read_schema(file)
                groups = [self._metadata.row_group(i).num_rows for i in range(self._metadata.num_row_groups)]
                self._ends = np.cumsum(groups)
            else:
                mapped = arrow.memory_map(file)
                indexed = mapped.read(6) == b"ARROW1"
                mapped.seek(0)
                self._rows = (arrow.ipc.open_file if indexed else arrow.ipc.open_stream)(mapped).read_all()
                self._rows.validate(full=True)  # this reads no videos, but where each lies
                self._schema = self._rows.schema
            notes = json.loads((self._schema.metadata or {}).get(b"huggingface", b"{}"))
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{file} is damaged, or no such table ({first_line(error)}); copy it again.") from None
        self.columns: list[str] = self._schema.names
        features = notes.get("info", {}).get("features", {})
        self.features: dict[str, dict[str, Any]] = {
            name: kind for name, kind in features.items() if isinstance(kind, dict) and name in self.columns
        }

    def __len__(self) -> int:
        return int(self._metadata.num_rows if self._rows is None else self._rows.num_rows)

    @property
    def holds_videos(self) -> bool:
        """Whether a column holds the videos themselves, or a feature says that it means them."""
        files = (name for name in self.columns if self.may_hold_videos(name) and not self.is_text(name))
        return any(files) or any(feature.get("_type") == "Video" for feature in self.features.values())

    def may_hold_videos(self, column: str) -> bool:
        """Whether a column has the type of paths or of files, and no feature says otherwise."""
        arrow, _ = _pyarrow(self._file)
        kind = self._schema.field(column).type
        if self.features.get(column, {}).get("_type", "Value") not in ("Value", "Video"):
            return False
        if arrow.types.is_struct(kind):
            names = {kind.field(i).name for i in range(kind.num_fields)}
            return names <= {"bytes", "path"} and bool(names)
        return arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind) or self.is_text(column)

    def is_text(self, column: str) -> bool:
        """Whether a column holds texts."""
        arrow, _ = _pyarrow(self._file)
        kind = self._schema.field(column).type
        return arrow.types.is_string(kind) or arrow.types.is_large_string(kind)

    def paths(self, column: str) -> list[str | None]:
        """The path of each video in a column; None where it has none."""
        arrow, _ = _pyarrow(self._file)
        kind = self._schema.field(column).type
        if self.is_text(column):
            return self.read(column)
        if not arrow.types.is_struct(kind) or kind.get_field_index("path") < 0:
            return [None] * len(self)
        if self._rows is not None:
            return [path for part in self._rows[column].chunks for path in part.field("path").to_pylist()]
        return [value and value["path"] for value in self.read(f"{column}.path")]

    def read(self, column: str) -> list[Any]:
        """All values of a column of small ones.

        Raises:
            DataError: the file is damaged.
        """
        if self._rows is not None:
            return self._rows[column].to_pylist()
        arrow, parquet = _pyarrow(self._file)
        try:
            return parquet.ParquetFile(self._file).read(columns=[column]).column(0).to_pylist()
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{self._file} is damaged ({first_line(error)}); copy it again.") from None

    def largest_read(self, column: str) -> int:
        """How many bytes may have to be read for one value of a column."""
        if self._rows is not None:
            return 0
        groups = [self._metadata.row_group(i) for i in range(self._metadata.num_row_groups)]
        return (
            max(
                sum(
                    part.total_compressed_size
                    for part in map(group.column, range(group.num_columns))
                    if part.path_in_schema.partition(".")[0] == column
                )
                for group in groups
            )
            if groups
            else 0
        )

    def value(self, column: str, row: int) -> Any:
        """One value.

        Raises:
            VideoError: the file is damaged.
        """
        arrow, _ = _pyarrow(self._file)
        try:
            return self._rows[column][row].as_py() if self._rows is not None else self._parquet_value(column, row)
        except (arrow.ArrowException, OSError, StopIteration) as error:
            raise VideoError(f"Row {row} of {self._file} can't be read: {first_line(error)}.") from None

    def _parquet_value(self, column: str, row: int) -> Any:
        _, parquet = _pyarrow(self._file)
        group = int(np.searchsorted(self._ends, row, side="right"))
        stretch = (self._file, column, group)
        nowhere: tuple[Any, int, Iterator[Any]] = (None, 0, iter(()))
        where, following, rows = getattr(_thread, "place", nowhere)
        if where != stretch or row < following:
            following = int(self._ends[group - 1]) if group else 0
            # In groups of rows a column can only be read from the first on: a row at a time, so that few are in memory.
            batches = parquet.ParquetFile(self._file, metadata=self._metadata, memory_map=True).iter_batches(
                batch_size=1, row_groups=[group], columns=[column], use_threads=False
            )
            rows = (batch.column(0)[0] for batch in batches)
        _thread.place = nowhere  # in case that it fails
        for _ in range(row - following):
            next(rows)
        value = next(rows).as_py()
        _thread.place = (stretch, row + 1, rows)
        return value


def open_table(file: str) -> Table:
    """Opens a table, or takes the one that is open, where the file is still the same.

    Raises:
        DataError: it is damaged or missing, or pyarrow is not installed.
    """
    try:
        found = Path(file).stat()
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}.") from None
    return _open_table(file, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=4096)
def _open_table(file: str, changed: int, size: int) -> Table:
    return Table(file)


def _pyarrow(file: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{file} needs pyarrow to be read: pip install 'timesformer-jax[parquet]'.") from None
    return pyarrow, pyarrow.parquet
