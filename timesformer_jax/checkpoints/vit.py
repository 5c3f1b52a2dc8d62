"""ImageNet ViTs, opened as the space-only TimeSformers that compute the same, picture by picture.

From these `adapt` makes a TimeSformer of any attention type as the paper starts its training: temporal attention is a
copy of the spatial one behind a projection of zero, and time embeddings are zero. The attentions over windows and over
width of the other schemes start likewise, and the ViT's own attention is then over the lattice, or over height: what
such a model computes at first is no longer what the ViT does (docs/schemes.md).
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError, ConfigError
from ..parameters import BACKBONE
from ..support.files import read_json
from ..video.processing import VideoProcessor
from ..video.processor_files import find_processor_files, sections
from .huggingface import torch_model
from .names import PATCHES, config_from_shapes, renamed, sides, to_original, with_head_names
from .stored_model import StoredModel
from .tensors import LazyTensor, Tensors
from .weights_file import WeightsFile

PatchOrder = Literal["channels_first", "channels_last"]
"""How a patch was flattened for a linear patch embedding: (channels, height, width) or (height, width, channels)."""

# Layers between the features and a classifier of ImageNet's; the features don't depend on them.
_AFTER_FEATURES = re.compile(r"(pre_logits\..*|pooler\.dense\.(weight|bias)|(embeddings\.)?mask_token)")
_DISTILLATION = ("dist_token", "embeddings.distillation_token")


def open_timm_vit(
    file: WeightsFile, prefix: str, known: Mapping[str, Any], patch_order: PatchOrder | None = None
) -> StoredModel:
    """Opens a ViT in timm's layout, such as the one from which the original starts (`jx_vit_base_p16_224`).

    Args:
        file: the opened file.
        prefix: what stands before the names of its tensors.
        known: config fields that the user gives. `num_labels` or `id2label` ask for a new classifier.
        patch_order: how patches were flattened for a patch embedding that is a linear layer; None is timm's own order,
            channels first.

    Raises:
        CheckpointError: tensors are missing, unknown or wrongly shaped, or an argument is needed that was not given;
            the message names it.
    """
    tensors, dropped = _without_extras(file.path, file.without_prefix(prefix), prefix)
    tensors = renamed(file.path, tensors)
    tensors[PATCHES] = _convolution(file.path, tensors, known, patch_order or "channels_first")
    config = config_from_shapes(
        file.path, tensors, known, attention_type="space_only", num_frames=known.get("num_frames", 8)
    )
    named, in_file = with_head_names(tensors), file.naming(prefix)

    def own_name(name: str) -> str:
        return in_file(to_original(name))

    # The published ViTs in this layout were made by several hands with several normalisations and don't say which: the
    # original trains with its own.
    return _start(file.path, config, named, own_name, dropped, known, VideoProcessor())


def open_transformers_vit(
    file: WeightsFile, prefix: str, known: Mapping[str, Any], patch_order: PatchOrder | None = None
) -> StoredModel:
    """Opens a `ViTModel` or `ViTForImageClassification` of Transformers, which has its config.json beside it.

    The config gives the LayerNorm's epsilon (1e-12), dropout rates and activation, and preprocessor_config.json the
    normalisation.

    Args:
        file: the opened file.
        prefix: what stands before the names of its tensors.
        known: config fields that the user gives. `num_labels` or `id2label` ask for a new classifier.
        patch_order: how patches were flattened; needed where the patch embedding is a linear layer.

    Raises:
        CheckpointError: tensors are missing, unknown or wrongly shaped.
        ConfigError: its config.json is impossible.
    """
    config_file = file.path.parent / "config.json"
    tensors, dropped = _without_extras(file.path, file.without_prefix(prefix), prefix)
    tensors = _fused(file.path, tensors)
    tensors[PATCHES] = _convolution(file.path, tensors, known, patch_order)
    config = TimesformerConfig.from_dict(_config_values(read_json(config_file, CheckpointError)), str(config_file))
    named, in_file = with_head_names(tensors), file.naming(prefix)

    def own_name(name: str) -> str:
        return file.root + name if name.startswith("classifier.") else in_file(name.removeprefix(f"{BACKBONE}."))

    return _start(file.path, config, named, own_name, dropped, known, _processor(file.path.parent))


def _without_extras(path: Path, tensors: Tensors, prefix: str) -> tuple[Tensors, tuple[str, ...]]:
    """Takes out the layers behind the features, and refuses a ViT whose features depend on others."""
    for name in _DISTILLATION:
        if name in tensors:
            raise CheckpointError(
                f"{path} is a distilled ViT: {prefix}{name} takes part in every attention, and a TimeSformer has no "
                "place for it; start from a ViT without distillation."
            )
    dropped = {name for name in tensors if _AFTER_FEATURES.fullmatch(name)}
    kept = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    return kept, tuple(prefix + name for name in sorted(dropped))


def _convolution(path: Path, tensors: Tensors, known: Mapping[str, Any], order: PatchOrder | None) -> LazyTensor:
    """The patch embedding as a convolution, also where the file has a linear layer over flattened patches."""
    if PATCHES not in tensors or len(tensors[PATCHES].shape) != 2:
        return tensors[PATCHES]
    linear, channels = tensors[PATCHES], known.get("num_channels") or 3
    width, features = linear.shape
    height, width_of_patch = sides(known.get("patch_size", math.isqrt(features // channels)))
    if height * width_of_patch * channels != features:
        raise CheckpointError(
            f"{path}: the patch embedding is a linear layer of {features} inputs, which no square patch of {channels} "
            "channels has; give patch_size=(height, width), and num_channels where they are not 3."
        )
    if order is None:
        raise CheckpointError(
            f"{path}: the patch embedding is a linear layer, and nothing tells how patches were flattened for it; give "
            'patch_order="channels_first" (channels, height, width) or "channels_last" (height, width, channels).'
        )

    def read() -> np.ndarray:
        values = linear.read()
        if order == "channels_first":
            return values.reshape(width, channels, height, width_of_patch)
        return values.reshape(width, height, width_of_patch, channels).transpose(0, 3, 1, 2)

    return LazyTensor((width, channels, height, width_of_patch), linear.file, read, linear.dtype)


def _fused(path: Path, tensors: Tensors) -> Tensors:
    """The tensors with queries, keys and values fused into one, as TimeSformer has them."""
    fused: Tensors = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.attention\.attention\.)(query|key|value)\.(weight|bias)", name)
        if match is None:
            fused[name] = tensor
            continue
        start, _, suffix = match.groups()
        names = [f"{start}{part}.{suffix}" for part in ("query", "key", "value")]
        missing = [other for other in names if other not in tensors]
        if missing or len({tensors[other].shape for other in names}) > 1:
            problem = f"{', '.join(missing)} missing" if missing else f"{', '.join(names)} of several shapes"
            raise CheckpointError(f"{path} is no ViT of Transformers: {problem}.")
        fused[f"{start}qkv.{suffix}"] = _concatenated([tensors[other] for other in names])
    return fused


def _concatenated(parts: list[LazyTensor]) -> LazyTensor:
    first = parts[0]
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    problem = next((part.problem for part in parts if part.problem), "")
    return LazyTensor(shape, first.file, lambda: np.concatenate([part.read() for part in parts]), first.dtype, problem)


def _config_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of the space-only TimeSformer with the weights of a ViT."""
    shared = (
        *("image_size", "patch_size", "num_channels", "hidden_size", "num_hidden_layers", "num_attention_heads"),
        *("intermediate_size", "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob"),
        *("initializer_range", "qkv_bias", "id2label", "label2id"),
    )
    taken = {name: values[name] for name in shared if name in values}
    return taken | {"layer_norm_eps": values.get("layer_norm_eps", 1e-12), "attention_type": "space_only"}


def _processor(directory: Path) -> VideoProcessor:
    """A preprocessing with the ViT's own arithmetic, or that of ViTImageProcessor where there is no file."""
    file = next(iter(find_processor_files(directory)), None)
    source, values = "", {}
    if file is not None:
        source, values = next(iter(sections(read_json(file, ConfigError), str(file)).items()))
    names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    arithmetic = {name: values[name] for name in names if name in values}
    return VideoProcessor.from_dict({"image_processor_type": "ViTImageProcessor", **arithmetic}, source)


def _start(
    path: Path,
    config: TimesformerConfig,
    tensors: Tensors,
    own_name: Callable[[str], str],
    dropped: tuple[str, ...],
    known: Mapping[str, Any],
    processor: VideoProcessor,
) -> StoredModel:
    """The stored model; it keeps the ViT's classifier only where no classes are asked for, since videos have others."""
    if "num_labels" in known or "id2label" in known:
        head = sorted(name for name in tensors if name.startswith("classifier."))
        dropped += tuple(map(own_name, head))
        tensors = {name.removeprefix(f"{BACKBONE}."): tensor for name, tensor in tensors.items() if name not in head}
        config = config.replace(num_labels=0)
    elif "classifier.weight" not in tensors:
        config = config.replace(id2label=None)
    return torch_model(
        path,
        tensors,
        config,
        "ViT, from which the training of a TimeSformer can start",
        own_name,
        dropped=dropped,
        processor=processor if config.num_channels == 3 else None,
        is_vit=True,
    )
