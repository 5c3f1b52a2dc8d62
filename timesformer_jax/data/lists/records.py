"""Takes lists in JSON, JSON lines and Parquet apart: records with named values."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import DataError, first_line
from ...support.files import without_repeated_keys
from .rows import ListRows

PARQUET = b"PAR1"
"""How a Parquet file begins."""


def read_json(source: str, text: str) -> list[dict[str, Any]]:
    """Reads JSON or JSON lines: a list of objects, an object on each line, or an object with a list for each column.

    Raises:
        DataError: it is something else; the message names the line or the record.
    """
    try:
        values = _loads(text)
    except RecursionError:
        raise DataError(f"{source} is no valid JSON (it nests too deep).") from None
    except ValueError as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) < 2 or text.lstrip()[0] != "{" or not lines[0][1].rstrip().endswith("}"):
            raise DataError(f"{source} is no valid JSON ({error}).") from None
        values = [_line(source, number, line) for number, line in lines]
    if isinstance(values, dict) and values and all(isinstance(column, list) for column in values.values()):
        lengths = {name: len(column) for name, column in values.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{source} has columns of different lengths: {lengths}.")
        values = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    elif isinstance(values, dict) and {"path", "label"} <= set(values):
        values = [values]  # a single line of JSON lines
    if not isinstance(values, list):
        raise DataError(
            f"{source} is no list of videos, but a JSON object; expected is a list of objects, each with a path and a "
            "label. Is it the file of the classes?"
        )
    for number, record in enumerate(values, 1):
        if not isinstance(record, dict):
            raise DataError(
                f"{source}, video {number} is {json.dumps(record)[:60]}, no object with a path and a label."
            )
    return values


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=without_repeated_keys)


def _line(source: str, number: int, line: str) -> Any:
    try:
        return _loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}, line {number} is no valid JSON ({error}).") from None


def rows_of_records(source: str, records: Sequence[Mapping[str, Any]]) -> ListRows:
    """Makes rows of records, which may lack values."""
    columns = tuple(dict.fromkeys(name for record in records for name in record))
    rows = [[_text(record.get(name)) for name in columns] for record in records]
    return ListRows(source, columns, rows, range(1, 1 + len(rows)), unit="video")


def read_parquet(source: str, data: bytes) -> ListRows:
    """Reads a Parquet file.

    Raises:
        DataError: it is damaged, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{source} is a Parquet file, which pyarrow reads: pip install 'timesformer-jax[parquet]'."
        ) from None
    try:
        table: Any = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source} is damaged, or no Parquet file ({first_line(error)}).") from None
    columns: list[Iterable[Any]] = [column.to_pylist() for column in table.columns]
    rows = [[_text(value) for value in row] for row in zip(*columns, strict=True)]
    return ListRows(source, tuple(table.column_names), rows, range(1, 1 + len(rows)), unit="row")


def _text(value: Any) -> str:
    """A value as a text: nothing for null, several labels as JSON writes them, which are refused as such later."""
    if isinstance(value, str):
        return value.strip()
    if value is None:
        return ""
    return json.dumps(value, default=str) if isinstance(value, list | dict | bool) else str(value)
