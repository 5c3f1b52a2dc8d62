"""A model in a checkpoint whose weights are not read yet: the result of the opener of every format."""

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

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")
"""The types that weights can have."""


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A TimeSformer in a checkpoint.

    Attributes:
        format: what the checkpoint is, in words.
        config: the config of the stored model; a ViT's is that of the space-only TimeSformer that computes the same.
        has_head: whether a classifier is stored, and not the bare model alone.
        require_complete: checks, without reading, that all parameters are there; raises CheckpointError.
        read: reads the parameters as numpy arrays of a type, or of their own (None); raises CheckpointError.
        tensors: PyTorch's tensors by the names of Transformers; None where the checkpoint is JAX's.
        dropped: tensors of the file that a TimeSformer has no place for.
        processor: the preprocessing, but for its size, that the weights file tells; None where it tells none.
        unknown_order: why the channel order of the frames is not known; None where it is.
        is_vit: whether the checkpoint is an image model, from which training starts.
        adapter: the directory of the PEFT adapter that `read` merges into the model; `tensors` are those without it.
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
    adapter: Path | None = None


def require_exact(
    where: Path | str, stored: Shapes, expected: Mapping[str, tuple[int, ...]], problems: Sequence[str] = ()
) -> None:
    """Checks that arrays have exactly the expected names and shapes, and types that weights can have.

    Args:
        where: the place of the arrays, for the message.
        stored: the shape and type of each array; "" is a type that is not known yet.
        expected: the shapes of the arrays that must be there.
        problems: further problems to list.

    Raises:
        CheckpointError: some are missing, unknown or wrong; the message lists all of them, and the problems.
    """
    shapes = {name: shape for name, (shape, _) in stored.items()}
    problems = list(problems)
    problems += [
        f"wrong type: {name} is {dtype}, weights are {', '.join(FLOAT_DTYPES)}"
        for name, (_, dtype) in stored.items()
        if dtype not in ("", *FLOAT_DTYPES)
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
