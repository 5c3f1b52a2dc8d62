"""Whether stored arrays are exactly those of a model, told from their names, shapes and types before any is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import CheckpointError
from .tensors import Shapes

_FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")


def require_exact(
    where: Path | str, stored: Shapes, expected: Mapping[str, tuple[int, ...]], problems: Sequence[str] = ()
) -> None:
    """Checks that arrays have exactly the expected names and shapes, and types that weights have.

    Args:
        where: the arrays are, for the message.
        stored: shape and type of each array; a type of "" is not known yet.
        expected: shapes of those that must be there.
        problems: what else is wrong.

    Raises:
        CheckpointError: they don't; lists every one that is missing, unknown or wrong, and the problems.
    """
    shapes = {name: shape for name, (shape, _) in stored.items()}
    problems = list(problems)
    problems += [
        f"wrong type: {name} is {dtype}, weights are {', '.join(_FLOAT_DTYPES)}"
        for name, (_, dtype) in stored.items()
        if dtype not in ("", *_FLOAT_DTYPES)
    ]
    problems += [f"missing: {name} {expected[name]}" for name in sorted(expected.keys() - shapes.keys())]
    problems += [f"unknown: {name} {shapes[name]}" for name in sorted(shapes.keys() - expected.keys())]
    problems += [
        f"wrong shape: {name} is {shapes[name]}, the config asks for {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    if problems:
        raise CheckpointError(
            f"{where}: not the model that the config describes "
            f"({len(problems)} problems in {len(shapes.keys() | expected.keys())} tensors):\n  " + "\n  ".join(problems)
        )
