"""What is inside a weights file before any of it is read: tensors, and the notes that training left beside them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..config import TimesformerConfig
from ..errors import CheckpointError
from .preprocessing import Preprocessing
from .tensors import LazyTensor, load_pickle, open_tensors, pickled_tensors

Kind = Literal["transformers", "facebook", "vit"]
Tensors = dict[str, LazyTensor]

_WRAPPERS = ("model_state", "state_dict", "model", "model_state_dict")
"""Where training codes put a state dict among their other notes (the original, timm, DeiT and MAE, plain PyTorch)."""


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """An opened weights file.

    Attributes:
        path: the file, or the index of its shards.
        tensors: by the names that they have in the file.
        wrapper: under which key of a pickle the state dict was; None for a plain one.
        notes: what else the pickle holds, such as "cfg" and "epoch".
    """

    path: Path
    tensors: Tensors
    wrapper: str | None = None
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Contents:
    """A TimeSformer in a weights file, its tensors under the names of Transformers.

    Attributes:
        kind: whose layout the file has.
        config: of the model that the tensors make; for a ViT, the space-only TimeSformer that computes the same.
        tensors: what `params_from_tensors` takes.
        dropped: tensors of the file that a TimeSformer has no place for.
        preprocessing: what the file says of it; None where that is in a file of its own.
    """

    kind: Kind
    config: TimesformerConfig
    tensors: Tensors
    dropped: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


def open_weights(path: Path) -> WeightsFile:
    """Opens a weights file of any kind.

    Raises:
        CheckpointError: it is damaged, or holds no tensors.
    """
    if path.name.endswith((".index.json", ".safetensors")):
        return WeightsFile(path, open_tensors(path))
    contents = load_pickle(path)
    wrapper = next((key for key in _WRAPPERS if isinstance(contents.get(key), Mapping) and contents[key]), None)
    if wrapper is None:
        return WeightsFile(path, pickled_tensors(path, contents))
    # The optimizer's state, as large as the weights, is left in the file.
    notes = {key: contents[key] for key in ("cfg", "epoch") if key in contents}
    return WeightsFile(path, pickled_tensors(path, contents, wrapper), wrapper, notes)


def prefix_before(tensors: Mapping[str, Any], name: str, path: Path) -> str | None:
    """What stands before a name in the names of a state dict, such as "module.model."; None if it is not there.

    Raises:
        CheckpointError: it is there more than once, so that the file holds several models.
    """
    prefixes = [found.removesuffix(name) for found in tensors if found.endswith(name)]
    prefixes = [prefix for prefix in prefixes if prefix == "" or prefix.endswith(".")]
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{path} holds {len(prefixes)} models, under {', '.join(map(repr, prefixes))}; save one of them by itself."
        )
    return prefixes[0] if prefixes else None


def without_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors with a prefix taken from those names that have it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
