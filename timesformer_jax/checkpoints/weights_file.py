"""Opens weights files: their tensors, not yet read, and the notes that training left beside them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .tensors import Shapes, Tensors, load_pickle, open_tensors, pickled_tensors

_WRAPPERS = ("model_state", "state_dict", "model", "model_state_dict")
"""Where training codes put a state dict among their other notes (the original, timm, DeiT and MAE, plain PyTorch)."""


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """An opened weights file.

    Attributes:
        path: the file, or the index of its shards.
        tensors: the tensors by the names that they have in the file.
        wrapper: the key of a pickle that holds the state dict; None where the pickle is one.
        notes: the pickle's other entries "cfg" and "epoch".
    """

    path: Path
    tensors: Tensors
    wrapper: str | None = None
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shapes(self) -> Shapes:
        """Shape and type of each tensor."""
        return {name: (tensor.shape, tensor.dtype or "unknown type") for name, tensor in self.tensors.items()}

    @property
    def facts(self) -> dict[str, str]:
        """The notes that training left beside the tensors, in words."""
        facts = {}
        if isinstance(self.notes.get("epoch"), int):
            facts["training"] = f"saved after epoch {self.notes['epoch']}"
        if self.wrapper is not None:
            facts["state dict"] = f"in {self.wrapper!r}"
        return facts

    def prefix_before(self, name: str) -> str | None:
        """The prefix of a name among those of the tensors, such as "module.model."; None if the name is not there.

        Raises:
            CheckpointError: the name is there more than once, so that the file holds several models.
        """
        prefixes = [found.removesuffix(name) for found in self.tensors if found.endswith(name)]
        prefixes = [prefix for prefix in prefixes if prefix == "" or prefix.endswith(".")]
        if len(prefixes) > 1:
            raise CheckpointError(
                f"{self.path} holds {len(prefixes)} models, under {', '.join(map(repr, prefixes))}; save one of them "
                "by itself."
            )
        return prefixes[0] if prefixes else None

    def without_prefix(self, prefix: str) -> Tensors:
        """The tensors with a prefix taken from those names that have it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items()}


def open_weights_file(path: Path) -> WeightsFile:
    """Opens a weights file of any format.

    Raises:
        CheckpointError: the file is damaged, or holds no tensors.
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
