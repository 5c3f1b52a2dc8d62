"""The one table of parameters: each has its place in the tree and names for its axes.

The shapes, PyTorch's tensors (checkpoints/mapping.py) and the places on a mesh (sharding.py) follow from it.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import get_args

from .config import AttentionType, TimesformerConfig
from .errors import ConfigError
from .schemes import attention_steps, has_position_embeddings, has_time_embeddings

Path = tuple[str, ...]

BACKBONE = "timesformer"
"""What the encoder is called inside the classifier, in Flax and in PyTorch alike."""

LOGICAL_AXES = ("embed", "heads", "mlp", "labels")
"""The axes that `ShardingRules` spreads over a mesh. All others are whole on every device."""

_AXES_OF_VECTORS = {"embed": "width", "labels": "classes"}
"""These axes are as long as kernels', but never spread: a bias of the width or of the classes is on every device."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter, or one of each layer.

    Attributes:
        path: its place in the encoder, or in a layer: ("attention", "qkv", "kernel").
        inputs: axes that a kernel contracts; other parameters have none.
        outputs: the axes after these.
        in_layer: whether every layer has one. They are stacked along one more axis in front, which is never spread.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    in_layer: bool = False

    @property
    def logical_axes(self) -> tuple[str | None, ...]:
        """The logical axes, as `ShardingRules` knows them; None for an axis that is whole on every device."""
        return tuple(axis if axis in LOGICAL_AXES else None for axis in (*self.inputs, *self.outputs))

    def full_path(self, *, head: bool) -> Path:
        """The path in the tree of the classifier (True) or of the bare model."""
        backbone = (BACKBONE,) if head and self.path[0] != "classifier" else ()
        return (*backbone, *(("encoder", "layers") if self.in_layer else ()), *self.path)


def axis_sizes(config: TimesformerConfig) -> dict[str, int]:
    """The length of every axis of the parameters of a model."""
    rows, columns = config.patch_shape
    return {
        **{"embed": config.hidden_size, "width": config.hidden_size, "mlp": config.intermediate_size},
        **{"qkv": 3, "heads": config.num_attention_heads, "head": config.head_dim},
        **{"labels": config.num_labels, "classes": config.num_labels},
        **{"places": 1 + math.prod(config.grid), "times": config.num_frames},
        **{"patch_rows": rows, "patch_columns": columns, "channels": config.num_channels},
    }


def parameters(config: TimesformerConfig, *, head: bool = True) -> list[Parameter]:
    """The parameters of a model.

    Args:
        config: the architecture.
        head: True for TimesformerForVideoClassification, False for the bare TimesformerModel.
    """
    steps = sorted(attention_steps(config), key=lambda step: step.dense is None)  # whatever their order
    embeddings = [_vector("embeddings", "cls_token")]
    if has_position_embeddings(config):
        embeddings.append(Parameter(("embeddings", "position_embeddings"), (), ("places", "embed")))
    embeddings += _dense(("embeddings", "patch_embeddings"), ("patch_rows", "patch_columns", "channels"), ("embed",))
    if has_time_embeddings(config):
        embeddings.append(Parameter(("embeddings", "time_embeddings"), (), ("times", "embed")))

    layer: list[Parameter] = []
    for step in steps:
        layer += _dense((step.attention, "qkv"), ("embed",), ("qkv", "heads", "head"), bias=config.qkv_bias)
        layer += _dense((step.attention, "output"), ("heads", "head"), ("embed",))
    for step in steps:
        layer += _norm(step.norm)
        if step.dense is not None:
            layer += _dense((step.dense,), ("embed",), ("width",))
    layer += _norm("layernorm_after")
    layer += _dense(("mlp", "intermediate"), ("embed",), ("mlp",))
    layer += _dense(("mlp", "output"), ("mlp",), ("embed",))

    classifier = _dense(("classifier",), ("embed",), ("labels",)) if head and config.num_labels > 0 else []
    layers = [dataclasses.replace(parameter, in_layer=True) for parameter in layer]
    return [*embeddings, *layers, *_norm("layernorm"), *classifier]


def _dense(path: Path, inputs: tuple[str, ...], outputs: tuple[str, ...], *, bias: bool = True) -> list[Parameter]:
    kernel = Parameter((*path, "kernel"), inputs, outputs)
    vector = tuple(_AXES_OF_VECTORS.get(axis, axis) for axis in outputs)
    return [kernel, Parameter((*path, "bias"), (), vector)] if bias else [kernel]


def _vector(*path: str) -> Parameter:
    return Parameter(path, (), ("width",))


def _norm(name: str) -> list[Parameter]:
    return [_vector(name, "scale"), _vector(name, "bias")]


@functools.cache
def known_parameters() -> dict[Path, Parameter]:
    """The parameters of all attention schemes by their paths, with those that only inference has.

    In the folded model's last layer (inference/folding.py) queries have a kernel of their own, and so have keys and
    values; a quantized kernel (inference/quantization.py) has a scale beside it, whole on every device.
    """
    known: dict[Path, Parameter] = {}
    for attention_type in get_args(AttentionType):
        known |= {each.path: each for each in parameters(TimesformerConfig(attention_type=attention_type))}
    for path, parameter in tuple(known.items()):
        if path[-2] == "qkv":
            for name in ("query", "key_value"):
                folded = (*path[:-2], name, path[-1])
                known[folded] = dataclasses.replace(parameter, path=folded)
    for path, parameter in tuple(known.items()):
        if path[-1] == "kernel":
            scale = (*path[:-1], "scale")
            known[scale] = Parameter(scale, (), ("scales",) * len(parameter.outputs))
    return known


def find_parameter(names: Sequence[str], shape: Sequence[int]) -> Parameter:
    """The parameter that a path in a tree ends with, whatever the tree: of parameters, an optimizer's, an average.

    Raises:
        ConfigError: there is none of this name, or it has another number of axes.
    """
    known = known_parameters()
    for start in range(len(names)):
        parameter = known.get(tuple(names[start:]))
        if parameter is not None and len(shape) - len(parameter.logical_axes) in (0, int(parameter.in_layer)):
            return parameter
    raise ConfigError(
        f"{'/'.join(names)} of shape {tuple(shape)} is no parameter that parameters.py knows, so nothing says which "
        "devices it is spread over."
    )
