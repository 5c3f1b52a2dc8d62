"""mmaction2's TimeSformers, of versions 0.x and 1.x, which hold the training's config as a Python text.

Its model computes what the original's does, and so Transformers': divided attention has its norms inside the attention
and feed-forward modules, before them; the other two types have them in the layer. `nn.MultiheadAttention` keeps
queries, keys and values in one matrix, in the order of `qkv`. What differs is what a config may ask for: another
epsilon in the last norm than in the layers, or layers of another make, which are refused.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError
from ..video.processing import VideoProcessor
from .huggingface import torch_model
from .mmaction2_config import Mmaction2Config, Normalisation, read_mmaction2_config
from .names import attention_type, config_from_shapes, with_head_names
from .stored_model import StoredModel
from .tensors import Tensors
from .weights_file import WeightsFile

logger = logging.getLogger("timesformer_jax")

MMACTION2_MARK = "patch_embed.projection.weight"
"""The tensor by which this layout is recognised. Other models of OpenMMLab have it, too."""

MMACTION2_BACKBONE = "backbone"
"""What the encoder is called beside the classifier, which is called "cls_head"."""

_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "time_embed": "embeddings.time_embeddings",
    "patch_embed.projection": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "cls_head.fc_cls": "classifier",
}
_MLP = {"ffns.0.layers.0.0": "intermediate.dense", "ffns.0.layers.1": "output.dense"}
_DIVIDED = _MLP | {
    "attentions.0.norm": "temporal_layernorm",
    "attentions.0.attn.in_proj": "temporal_attention.attention.qkv",
    "attentions.0.attn.out_proj": "temporal_attention.output.dense",
    "attentions.0.temporal_fc": "temporal_dense",
    "attentions.1.norm": "layernorm_before",
    "attentions.1.attn.in_proj": "attention.attention.qkv",
    "attentions.1.attn.out_proj": "attention.output.dense",
    "ffns.0.norm": "layernorm_after",
}
_UNDIVIDED = _MLP | {
    "norms.0": "layernorm_before",
    "attentions.0.attn.in_proj": "attention.attention.qkv",
    "attentions.0.attn.out_proj": "attention.output.dense",
    "norms.1": "layernorm_after",
}
"""mmaction2's name -> Transformers'. No tensor is transposed or reshaped between the two."""

_LAYERS = "transformer_layers.layers"
_EPSILON = 1e-6
"""That of all norms in mmaction2's layers, whatever a config says."""

_PUBLISHED = Normalisation((127.5,) * 3, (127.5,) * 3)
"""That of all of mmaction2's own configs of this model."""


def open_mmaction2(file: WeightsFile, prefix: str, known: Mapping[str, Any]) -> StoredModel:
    """Opens a checkpoint of mmaction2, or its bare state dict, as a TimeSformer of Transformers.

    Attention type, classes and dimensions come from the shapes, and heads, sampling, normalisation and the names of
    classes from meta; where they tell the same, they must agree.

    Args:
        file: the opened file.
        prefix: what stands before the names of the backbone's tensors.
        known: config fields that the user gives, for those that neither shapes nor config tell.

    Raises:
        CheckpointError: tensors are missing, unknown or wrongly shaped, it is another model of OpenMMLab, its config
            can't be read, contradicts the tensors or asks for what no TimeSformer here computes, or an argument is
            needed that was not given; the message names it.
    """
    tensors, own_name = file.without_prefix(prefix), file.naming(prefix)
    settings = read_mmaction2_config(file.path, file.notes.get("meta"))
    if not any(name.startswith(f"{_LAYERS}.") for name in tensors):
        kind = f" (its config calls it {settings.backbone['type']!r})" if "type" in settings.backbone else ""
        raise CheckpointError(f"{file.path} is a model of OpenMMLab, but no TimeSformer{kind}.")
    _require_same_function(settings)
    buffers = {
        name: tensors.pop(name) for name in ("data_preprocessor.mean", "data_preprocessor.std") if name in tensors
    }
    layer_names = _DIVIDED if any(".temporal_fc." in name for name in tensors) else _UNDIVIDED
    names = {name: _rename(name, layer_names) for name in tensors}
    named = {new: tensors[name] for name, new in names.items()}
    inverse = {new: name for name, new in names.items()}

    def in_file(name: str) -> str:
        bare = name.removeprefix("timesformer.")
        return own_name(inverse.get(bare, _name_for(bare, layer_names)))

    config = _config(file, named, settings, known, in_file)
    labels = _labels(file, config)
    return torch_model(
        file.path,
        with_head_names(named),
        config if labels is None else config.replace(id2label=labels),
        "TimeSformer in the format of mmaction2",
        in_file,
        processor=_processor(file, settings, config, buffers),
    )


def _require_same_function(settings: Mmaction2Config) -> None:
    """Checks that a config asks for nothing but the model of mmaction2's own configs.

    Raises:
        CheckpointError: it asks for another.
    """
    backbone, norm = settings.backbone, settings.backbone.get("norm_cfg") or {"type": "LN", "eps": _EPSILON}
    kinds = [(backbone, "TimeSformer"), (settings.head, "TimeSformerHead")]
    strange = [f"type={section['type']!r}" for section, kind in kinds if not _is_kind(section, kind)]
    if backbone.get("transformer_layers") is not None:
        strange.append("transformer_layers of its own")
    # PyTorch's own epsilon is another than that of the layers.
    if not isinstance(norm, Mapping) or norm.get("type") != "LN" or norm.get("eps", 1e-5) != _EPSILON:
        strange.append(
            f"norm_cfg={norm!r} for the last norm, while those in the layers have an epsilon of {_EPSILON:g}"
        )
    if strange:
        raise CheckpointError(
            f"{settings.path}: its config asks for {', '.join(strange)}, and no model here computes that."
        )


def _is_kind(section: Mapping[str, Any], kind: str) -> bool:
    return str(section.get("type", kind)).rpartition(".")[-1] == kind


def _rename(name: str, layer_names: Mapping[str, str]) -> str:
    """Transformers' name for a tensor; a name that is not in the tables is returned as it is."""
    for pattern, new, names in (
        (r"()(.+?)", "", _NAMES),
        (rf"{re.escape(_LAYERS)}\.(\d+)\.(.+?)", "encoder.layer.{}.", layer_names),
    ):
        match = re.fullmatch(rf"{pattern}((?:[._](?:weight|bias))?)", name, re.DOTALL)
        if match and match[2] in names:
            return f"{new.format(match[1])}{names[match[2]]}{match[3].replace('_', '.')}"
    return name


def _name_for(name: str, layer_names: Mapping[str, str]) -> str:
    """mmaction2's name for a tensor that Transformers has."""
    for pattern, old, names in (
        (r"()(.+?)", "", _NAMES),
        (r"encoder\.layer\.(\d+)\.(.+?)", f"{_LAYERS}.{{}}.", layer_names),
    ):
        match = re.fullmatch(rf"{pattern}((?:\.(?:weight|bias))?)", name, re.DOTALL)
        stem = next((stem for stem, new in names.items() if match and new == match[2]), None)
        if match and stem is not None:
            end = match[3].replace(".", "_") if stem.endswith("in_proj") else match[3]
            return f"{old.format(match[1])}{stem}{end}"
    return name


def _config(
    file: WeightsFile, tensors: Tensors, settings: Mmaction2Config, known: Mapping[str, Any], in_file: Any
) -> TimesformerConfig:
    told = {"num_frames": settings.backbone.get("num_frames"), "image_size": settings.backbone.get("img_size")}
    if settings.backbone:
        told["num_attention_heads"] = settings.backbone.get("num_heads", 12)
    known = dict(known) | {name: value for name, value in told.items() if value is not None}
    config = config_from_shapes(file.path, tensors, known, in_file, attention_type=attention_type(tensors))
    said = {
        "attention_type": (settings.backbone.get("attention_type"), config.attention_type),
        "num_frames": (settings.backbone.get("num_frames"), config.num_frames),
        "img_size": (_side(settings.backbone.get("img_size")), config.image_size),
        "patch_size": (_side(settings.backbone.get("patch_size")), config.patch_size),
        "embed_dims": (settings.backbone.get("embed_dims"), config.hidden_size),
        "num_transformer_layers": (settings.backbone.get("num_transformer_layers"), config.num_hidden_layers),
        "in_channels": (settings.backbone.get("in_channels"), config.num_channels),
        "num_classes": (settings.head.get("num_classes"), config.num_labels),
    }
    if "classifier.weight" not in tensors:
        del said["num_classes"]
    contradictions = [
        f"{n} {s!r} but tensors for {found!r}" for n, (s, found) in said.items() if s not in (None, found)
    ]
    if contradictions:
        raise CheckpointError(
            f"{file.path} contradicts itself: its config says {'; '.join(contradictions)}. One of the two belongs to "
            "another checkpoint."
        )
    loss = settings.head.get("loss_cls")
    sigmoids = isinstance(loss, Mapping) and str(loss.get("type")).endswith("BCELossWithLogits")
    return config.replace(
        sampling_rate=settings.sampling_rate(config.num_frames),
        problem_type="multi_label_classification" if sigmoids else None,
    )


def _side(size: Any) -> Any:
    """A side, or two where they differ, as a config here has them."""
    return size[0] if isinstance(size, tuple) and len(set(size)) == 1 else size


def _labels(file: WeightsFile, config: TimesformerConfig) -> dict[int, str] | None:
    """The names of the classes, which some data sets leave in meta."""
    meta = file.notes.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    data = meta.get("dataset_meta")
    places = [meta, data] if isinstance(data, Mapping) else [meta]
    names = next((p[key] for p in places for key in ("classes", "CLASSES") if p.get(key)), None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    if len(names) != config.num_labels:
        raise CheckpointError(
            f"{file.path} contradicts itself: its meta names {len(names)} classes, and its tensors are for "
            f"{config.num_labels}."
        )
    return dict(enumerate(names))


def _processor(
    file: WeightsFile, settings: Mmaction2Config, config: TimesformerConfig, buffers: Tensors
) -> VideoProcessor | None:
    """A preprocessing with mmaction2's mean and deviation; None for a model of other than three channels."""
    if config.num_channels != 3:
        return None
    found = settings.normalisation()
    if len(buffers) == 2:  # early releases of version 1 keep them among the tensors
        mean, std = (tuple(map(float, np.ravel(tensor.read()))) for tensor in buffers.values())
        stored = Normalisation(mean, std, found.channel_order if found else "rgb")
        if found is not None and not _close((*found.mean, *found.std), (*mean, *std)):
            raise CheckpointError(
                f"{file.path} contradicts itself: its config says mean {found.mean} and std {found.std}, and its "
                f"tensors {mean} and {std}."
            )
        found = stored
    if found is None:
        found = _PUBLISHED
        logger.warning(
            "%s does not tell how its frames were normalised: as in mmaction2's own configs, with mean and standard "
            "deviation %g of 255, in RGB",
            *(file.path, found.mean[0]),
        )
    mean, std = (tuple(value / 255 for value in values) for values in (found.mean, found.std))
    return VideoProcessor(image_mean=mean, image_std=std, channel_order=found.channel_order)


def _close(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return len(first) == len(second) and bool(np.allclose(first, second, rtol=1e-6))  # buffers are float32
