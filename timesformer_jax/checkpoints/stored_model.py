"""A model in a checkpoint that is told apart and not yet read: what the opener of every format gives."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError
from ..video.processing import VideoProcessor
from .mapping import Params
from .tensors import Shapes, Tensors

ChannelOrder = Literal["rgb", "bgr"]

_FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A TimeSformer in a checkpoint.

    Attributes:
        format: what the checkpoint is, in words.
        config: of the model as it is stored; for a ViT, of the space-only TimeSformer that computes the same.
        has_head: whether the classifier is stored or the bare model alone.
        require_complete: checks, without reading, that all parameters are there; raises CheckpointError.
        read: the parameters as numpy arrays of a type, or of their own (None); raises CheckpointError.
        tensors: PyTorch's, under the names of Transformers; None where the parameters are JAX's.
        dropped: tensors of the file that a TimeSformer has no place for.
        processor: the preprocessing that the weights file tells; None where it tells none.
        unknown_order: why nobody knows the channel order of the frames; None where it is known or a file of the
            preprocessor says it.
        is_vit: whether it is an image model, from which training starts.
    """

    format: str
    config: TimesformerConfig
    has_head: bool
    require_complete: Callable[[], object]
    read: Callable[[np.dtype | None], Params]
    tensors: Tensors | None = None
    dropped: tuple[str, ...] = ()
    processor: VideoProcessor | None = None
    unknown_order: str | None = None
    is_vit: bool = False


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
