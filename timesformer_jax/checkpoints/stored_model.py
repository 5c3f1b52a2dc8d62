"""A model in a checkpoint that is told apart and not yet read: what the opener of every format gives."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from ..config import TimesformerConfig
from ..video.processing import VideoProcessor
from .mapping import Params
from .tensors import Tensors

ChannelOrder = Literal["rgb", "bgr"]


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
