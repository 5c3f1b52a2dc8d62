"""The tensor names of the original repository and of timm's ViTs, and the architecture that shapes tell."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..config import TimesformerConfig
from ..errors import CheckpointError
from ..parameters import BACKBONE
from .huggingface import has_head
from .tensors import Tensors

_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "time_embed": "embeddings.time_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "head": "classifier",
}
_LAYER_NAMES = {
    "norm1": "layernorm_before",
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.output.dense",
    "temporal_norm1": "temporal_layernorm",
    "temporal_attn.qkv": "temporal_attention.attention.qkv",
    "temporal_attn.proj": "temporal_attention.output.dense",
    "temporal_fc": "temporal_dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""The original's name -> Transformers'. No tensor is transposed or reshaped between the two."""

PATCHES = "embeddings.patch_embeddings.projection.weight"


def to_transformers(name: str) -> str:
    """Transformers' name for a tensor; a name that is not in the table is returned as it is."""
    return _rename(name, "blocks", "encoder.layer", _NAMES, _LAYER_NAMES)


def to_original(name: str) -> str:
    """The original's name for a tensor of Transformers, of the bare model or of the classifier."""
    inverse, layer_inverse = ({new: old for old, new in names.items()} for names in (_NAMES, _LAYER_NAMES))
    return _rename(name.removeprefix(f"{BACKBONE}."), "encoder.layer", "blocks", inverse, layer_inverse)


def _rename(name: str, old: str, new: str, names: Mapping[str, str], layer_names: Mapping[str, str]) -> str:
    stem, suffix = re.fullmatch(r"(.*?)((?:\.weight|\.bias)?)", name, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    layer = re.fullmatch(rf"{re.escape(old)}\.(\d+)\.(.+)", stem)
    if layer is not None and layer[2] in layer_names:
        return f"{new}.{layer[1]}.{layer_names[layer[2]]}{suffix}"
    return f"{names[stem]}{suffix}" if stem in names else name


def renamed(path: Path, tensors: Tensors) -> Tensors:
    """All tensors under Transformers' names.

    Raises:
        CheckpointError: two tensors would get the same name.
    """
    result: Tensors = {}
    for name, tensor in tensors.items():
        new = to_transformers(name)
        if new in result:
            raise CheckpointError(f"{path} holds {name} twice, as {to_original(new)} and under Transformers' name.")
        result[new] = tensor
    return result


def with_head_names(tensors: Tensors) -> Tensors:
    """The tensors of a bare model, renamed to those of the classifier if a classifier is among them."""
    if not has_head(tensors):
        return tensors
    return {name if name.startswith("classifier.") else f"{BACKBONE}.{name}": t for name, t in tensors.items()}


def attention_type(tensors: Tensors) -> str:
    """The attention of a published TimeSformer, by its tensors under Transformers' names without a prefix."""
    if any(".temporal_" in name for name in tensors):
        return "divided_space_time"
    return "joint_space_time" if "embeddings.time_embeddings" in tensors else "space_only"


def config_from_shapes(
    path: Path,
    tensors: Tensors,
    known: Mapping[str, Any],
    own_name: Callable[[str], str] = to_original,
    **fields: Any,
) -> TimesformerConfig:
    """Tells the architecture from the shapes of tensors that have Transformers' names without a prefix.

    Args:
        path: the file, for messages.
        tensors: those of a TimeSformer whose patch embedding is a convolution.
        known: what the user gives: `num_attention_heads`, and `image_size` or `num_frames` where no shape tells.
        own_name: gives the name that a tensor has in the file, for messages.
        **fields: further fields of the config.

    Raises:
        CheckpointError: a tensor that is needed is missing, or a field that no tensor tells is not in `known`.
        ConfigError: no model can have this architecture.
    """

    def shape(name: str, ndim: int) -> tuple[int, ...]:
        if name not in tensors or len(tensors[name].shape) != ndim or 0 in tensors[name].shape:
            found = f"of shape {tensors[name].shape}" if name in tensors else "missing"
            raise CheckpointError(f"{path}: {own_name(name)} is {found}; without it the model can't be told.")
        return tensors[name].shape

    width, channels, *patch = shape(PATCHES, 4)
    heads = known.get("num_attention_heads")
    if heads is None:
        if width % 64:
            raise CheckpointError(
                f"{path}: heads of 64, as in all published models, do not divide the width {width}; give "
                "num_attention_heads."
            )
        heads = width // 64
    frames = fields.pop("num_frames", None) or known.get("num_frames")
    if "embeddings.time_embeddings" in tensors:
        frames = shape("embeddings.time_embeddings", 3)[1]
    if frames is None:
        raise CheckpointError(f"{path} does not tell for how many frames it was trained; give num_frames.")
    matches = [re.match(r"encoder\.layer\.(\d{1,4})\.", name) for name in tensors]
    layers = {int(match[1]) for match in matches if match}
    if layers != set(range(len(layers))):
        lost = sorted(set(range(max(layers))) - layers)
        raise CheckpointError(f"{path} lacks the blocks {', '.join(map(str, lost[:8]))} of 0 to {max(layers)}.")
    classifier = "classifier.weight" in tensors
    return TimesformerConfig(
        image_size=_image_size(path, shape("embeddings.position_embeddings", 3)[1] - 1, patch, known),
        patch_size=(patch[0], patch[1]),
        num_channels=channels,
        num_frames=frames,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=heads,
        intermediate_size=shape("encoder.layer.0.intermediate.dense.weight", 2)[0],
        qkv_bias="encoder.layer.0.attention.attention.qkv.bias" in tensors,
        **({"num_labels": shape("classifier.weight", 2)[0]} if classifier else {}),
        **fields,
    )


def _image_size(path: Path, num_patches: int, patch: list[int], known: Mapping[str, Any]) -> tuple[int, int]:
    side = math.isqrt(max(num_patches, 0))
    if side > 0 and side * side == num_patches:
        return side * patch[0], side * patch[1]
    height, width = sides(known.get("image_size"))
    if num_patches < 1 or (height // patch[0]) * (width // patch[1]) != num_patches:
        raise CheckpointError(
            f"{path}: the position embeddings are for {num_patches} patches, which make no square; give the "
            "image_size=(height, width) that they are for."
        )
    return height, width


def sides(size: Any) -> tuple[int, int]:
    """The (height, width) that a user gave, as one number or two; (0, 0) for anything else."""
    pair: tuple[Any, ...] = tuple(size) if isinstance(size, tuple | list) else (size, size)
    return (pair[0], pair[1]) if len(pair) == 2 and all(isinstance(side, int) for side in pair) else (0, 0)
