"""Reads the names of classes from a file, for checkpoints that don't hold them."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import CheckpointError


def read_labels(path: str | PathLike[str]) -> dict[int, str]:
    """Reads the names of classes, by index.

    Args:
        path: a text file with a name on each line, in the order of the classes; or JSON: a list of names,
            {"0": name, ...} or {name: 0, ...} (the layout of the lists that come with Something-Something and
            Kinetics).

    Raises:
        CheckpointError: the file can't be read, or does not name each class from 0 on once.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is no text: a file of labels has one name on each line, or is JSON.") from None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            labels = _from_json(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} holds no JSON of labels ({error}).") from None
    else:
        labels = dict(enumerate(line.strip() for line in text.rstrip().splitlines()))
    if not labels or sorted(labels) != list(range(len(labels))):
        raise CheckpointError(f"{path} must name the classes 0 to {max(len(labels) - 1, 0)}, each once.")
    if "" in labels.values():
        empty = next(i for i, name in labels.items() if not name)
        raise CheckpointError(f"{path} has no name for class {empty} (an empty line?).")
    return dict(sorted(labels.items()))


def _from_json(values: Any) -> dict[int, str]:
    pairs: list[tuple[Any, Any]] = list(enumerate(values) if isinstance(values, list) else values.items())
    if not all(str(index).isdecimal() for index, _ in pairs):
        pairs = [(index, name) for name, index in pairs]
    labels = {int(str(index)): name for index, name in pairs}
    if len(labels) != len(pairs) or not all(isinstance(name, str) for name in labels.values()):
        raise ValueError("each class needs one name, a text")
    return {index: name.strip() for index, name in labels.items()}
