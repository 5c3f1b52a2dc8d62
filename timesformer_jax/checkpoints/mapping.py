"""Which PyTorch tensor is which Flax parameter: one table for every model, read in both directions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import TimesformerConfig
from ..parameters import Parameter, Path, axis_sizes, parameters

Params = dict[str, Any]
"""A tree of arrays: nested dictionaries with string keys."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One Flax parameter and the tensor, or the tensors of all layers, that it comes from.

    Attributes:
        path: the parameter's place in the tree.
        name: the tensor's name in the state dict; "{}" stands for the layer's number.
        torch_shape: the shape of one tensor.
        flax_shape: the shape of the parameter without the axis of the layers.
        axes: the transposition from PyTorch's order of axes to Flax's.
        layers: how many tensors are stacked along a leading axis; None for a parameter that is a tensor by itself.
    """

    path: Path
    name: str
    torch_shape: tuple[int, ...]
    flax_shape: tuple[int, ...]
    axes: tuple[int, ...]
    layers: int | None = None

    @property
    def names(self) -> list[str]:
        """The tensors' names, layer by layer."""
        return [self.name] if self.layers is None else [self.name.format(layer) for layer in range(self.layers)]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter, layers included."""
        return self.flax_shape if self.layers is None else (self.layers, *self.flax_shape)

    def to_flax(self, tensor: np.ndarray) -> np.ndarray:
        """The parameter (of one layer) that a PyTorch tensor holds."""
        return tensor.transpose(self.axes).reshape(self.flax_shape)

    def copy_to_flax(self, tensor: np.ndarray, parameter: np.ndarray) -> None:
        """Writes the parameter that a PyTorch tensor holds into an array."""
        if self.axes != (1, 0):
            parameter[...] = self.to_flax(tensor)
            return
        # Block by block, which stay in the cache: three times as fast as turning a whole matrix over.
        target, block = parameter.reshape(-1, len(tensor)), 128
        for row in range(0, len(target), block):
            for column in range(0, len(tensor), block):
                source = tensor[column : column + block, row : row + block]
                target[row : row + block, column : column + block] = source.T

    def to_torch(self, parameter: np.ndarray) -> np.ndarray:
        """The PyTorch tensor for a parameter (of one layer)."""
        transposed = [self.torch_shape[axis] for axis in self.axes]
        return parameter.reshape(transposed).transpose(np.argsort(self.axes))


def mapping_table(config: TimesformerConfig, *, head: bool = True) -> list[Entry]:
    """Every parameter of a model with this config, and the tensor that it comes from.

    Args:
        config: the architecture.
        head: True for TimesformerForVideoClassification, False for the bare TimesformerModel.
    """
    return [_entry(parameter, config, head) for parameter in parameters(config, head=head)]


_TORCH_MODULES = {
    "patch_embeddings": "patch_embeddings.projection",
    "qkv": "attention.qkv",
    "output": "output.dense",
    "intermediate": "intermediate.dense",
}
"""What PyTorch calls a module where it is not as in Flax. The MLP has no module around it there."""

_TORCH_TENSORS = {"kernel": "weight", "scale": "weight"}


def _entry(parameter: Parameter, config: TimesformerConfig, head: bool) -> Entry:
    sizes, path = axis_sizes(config), parameter.full_path(head=head)
    inputs, outputs = (tuple(sizes[axis] for axis in axes) for axes in (parameter.inputs, parameter.outputs))
    *modules, last = path
    parts = [_TORCH_MODULES.get(module, module) for module in modules if module != "mlp"]
    name = ".".join([*parts, _TORCH_TENSORS.get(last, last)]).replace("encoder.layers.", "encoder.layer.{}.")
    if modules[-1] == "embeddings":  # PyTorch's have an axis more for the batch, and CLS one for its place
        torch_shape = (*(1,) * (3 - len(outputs)), *outputs)
        axes = (0, 1, 2)
    elif modules[-1] == "patch_embeddings" and last == "kernel":  # a convolution
        rows, columns, channels = inputs
        torch_shape, axes = (*outputs, channels, rows, columns), (2, 3, 1, 0)
    elif last == "kernel":  # PyTorch keeps a linear layer's weight as (outputs, inputs)
        torch_shape, axes = (math.prod(outputs), math.prod(inputs)), (1, 0)
    else:
        torch_shape, axes = (math.prod(outputs),), (0,)
    layers = config.num_hidden_layers if parameter.in_layer else None
    return Entry(path, name, torch_shape, (*inputs, *outputs), axes, layers)


def get_leaf(params: Mapping[str, Any], path: Path) -> Any:
    """The array at a path of a tree.

    Raises:
        KeyError: there is none.
    """
    node: Any = params
    for key in path:
        node = node[key]
    return node


def set_leaf(params: Params, path: Path, leaf: Any) -> None:
    """Puts an array at a path of a tree, and makes the dictionaries that are missing."""
    for key in path[:-1]:
        params = params.setdefault(key, {})
    params[path[-1]] = leaf


def flat_names(params: Mapping[str, Any]) -> dict[str, Any]:
    """Every leaf of a tree under its path, joined by slashes."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": leaf for name, leaf in flat_names(value).items()}
        else:
            flat[key] = value
    return flat
