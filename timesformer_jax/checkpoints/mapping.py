"""The one table that says which PyTorch tensor is which Flax parameter; it is read in both directions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import TimesformerConfig
from ..schemes import attention_steps, has_position_embeddings, has_time_embeddings

Path = tuple[str, ...]
Params = dict[str, Any]
"""A tree of arrays: nested dictionaries with string keys."""

BACKBONE = "timesformer"
"""What the encoder is called inside the classifier, in Flax and in PyTorch alike."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One Flax parameter and the tensor, or the tensors of all layers, that it comes from.

    Attributes:
        path: where the parameter is in the tree.
        name: of the tensor in the state dict; "{}" stands for the layer's number.
        torch_shape: of one tensor.
        flax_shape: of the parameter, without the axis of the layers.
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
        """Writes what `to_flax` gives into an array."""
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
    """Every parameter of a model with this config.

    Args:
        config: the architecture.
        head: True for TimesformerForVideoClassification, False for the bare TimesformerModel.
    """
    entries = _backbone(config)
    if not head:
        return entries
    entries = [
        dataclasses.replace(entry, path=(BACKBONE, *entry.path), name=f"{BACKBONE}.{entry.name}") for entry in entries
    ]
    if config.num_labels > 0:
        entries += _dense(("classifier",), "classifier", config.hidden_size, (config.num_labels,))
    return entries


def _backbone(config: TimesformerConfig) -> list[Entry]:
    width, heads = config.hidden_size, (config.num_attention_heads, config.head_dim)
    num_patches = math.prod(config.grid)
    steps = sorted(attention_steps(config), key=lambda step: step.dense is None)  # whatever their order

    entries = [_reshaped(("embeddings", "cls_token"), "embeddings.cls_token", (1, 1, width), (width,))]
    if has_position_embeddings(config):
        shape = (1 + num_patches, width)
        name = "position_embeddings"
        entries.append(_reshaped(("embeddings", name), f"embeddings.{name}", (1, *shape), shape))
    entries += [
        Entry(
            ("embeddings", "patch_embeddings", "kernel"),
            "embeddings.patch_embeddings.projection.weight",
            (width, config.num_channels, *config.patch_shape),
            (*config.patch_shape, config.num_channels, width),
            (2, 3, 1, 0),
        ),
        _vector(("embeddings", "patch_embeddings", "bias"), "embeddings.patch_embeddings.projection.bias", width),
    ]
    if has_time_embeddings(config):
        time_shape = (config.num_frames, width)
        entries.append(
            _reshaped(("embeddings", "time_embeddings"), "embeddings.time_embeddings", (1, *time_shape), time_shape)
        )

    layer: list[Entry] = []
    for attention in (step.attention for step in steps):
        qkv = _dense((attention, "qkv"), f"{attention}.attention.qkv", width, (3, *heads), bias=config.qkv_bias)
        layer += [*qkv, *_dense((attention, "output"), f"{attention}.output.dense", heads, (width,))]
    for step in steps:
        layer += _norm(step.norm, width)
        if step.dense is not None:
            layer += _dense((step.dense,), step.dense, width, (width,))
    layer += _norm("layernorm_after", width)
    layer += _dense(("mlp", "intermediate"), "intermediate.dense", width, (config.intermediate_size,))
    layer += _dense(("mlp", "output"), "output.dense", config.intermediate_size, (width,))
    entries += [
        dataclasses.replace(
            entry,
            path=("encoder", "layers", *entry.path),
            name=f"encoder.layer.{{}}.{entry.name}",
            layers=config.num_hidden_layers,
        )
        for entry in layer
    ]
    return entries + _norm("layernorm", width)


def _reshaped(path: Path, name: str, torch_shape: tuple[int, ...], flax_shape: tuple[int, ...]) -> Entry:
    return Entry(path, name, torch_shape, flax_shape, tuple(range(len(torch_shape))))


def _vector(path: Path, name: str, size: int) -> Entry:
    return _reshaped(path, name, (size,), (size,))


def _norm(name: str, width: int) -> list[Entry]:
    return [_vector((name, "scale"), f"{name}.weight", width), _vector((name, "bias"), f"{name}.bias", width)]


def _dense(
    path: Path, name: str, inputs: int | tuple[int, ...], outputs: tuple[int, ...], *, bias: bool = True
) -> list[Entry]:
    """PyTorch keeps a linear layer's weight as (outputs, inputs), Flax its kernel as (inputs, outputs)."""
    inputs = (inputs,) if isinstance(inputs, int) else inputs
    torch_shape = (math.prod(outputs), math.prod(inputs))
    kernel = Entry((*path, "kernel"), f"{name}.weight", torch_shape, (*inputs, *outputs), (1, 0))
    return [kernel, _reshaped((*path, "bias"), f"{name}.bias", torch_shape[:1], outputs)] if bias else [kernel]


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
    """Puts an array at a path of a tree, making the dictionaries on the way."""
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
