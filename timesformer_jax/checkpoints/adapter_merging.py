"""Merges LoRA adapters of PEFT's into the models that they were trained on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError
from ..parameters import BACKBONE
from .adapter_config import REMEDY
from .adapters import Adapter, require_fit
from .huggingface import has_head
from .mapping import Entry, Params, get_leaf, mapping_table, set_leaf
from .stored_model import StoredModel
from .tensors import Tensors, empty_array

MERGED = "merged_adapters"
"""The key of a config.json that names the adapters which the weights contain already."""


def merged(base: StoredModel, adapter: Adapter) -> StoredModel:
    """The model that an adapter makes of its base: what PEFT's `merge_and_unload` gives, computed in float64.

    Args:
        base: the model that the adapter was trained on, in any format.
        adapter: the adapter.

    Raises:
        CheckpointError: the adapter does not fit the base.
    """
    if base.is_vit:
        raise CheckpointError(
            f"{adapter.name} is an adapter for {adapter.base_name}, a ViT, whose adapters are not read; {REMEDY}."
        )
    _require_new(base.config, adapter)
    # Of the classifier or of the bare model, whatever the base is: PEFT's names are those of the model it was given.
    prefixed = has_head(adapter.tensors)
    brings_head = len(adapter.shapes.get("classifier.weight", ((), ""))[0]) == 2
    head = prefixed and (base.has_head or brings_head)
    config = _config(base.config, adapter, brings_head=brings_head)
    table = mapping_table(config, head=head)
    shapes = {name: entry.torch_shape for entry in table for name in entry.names}
    if prefixed and not head:
        shapes = {f"{BACKBONE}.{name}": shape for name, shape in shapes.items()}
    changed = require_fit(adapter, shapes)
    dropped = tuple(f"classifier/{part}" for part in ("kernel", "bias") if base.has_head and not head)

    def read(dtype: np.dtype | None) -> Params:
        return _merge(base, adapter, changed, table, dtype, prefix=f"{BACKBONE}." if prefixed and not head else "")

    return dataclasses.replace(
        base,
        format=f"{base.format}, with a PEFT adapter merged into it",
        config=config,
        has_head=head,
        read=read,
        tensors=None if base.tensors is None else _renamed(base.tensors, head=head, without_head=brings_head),
        dropped=(*base.dropped, *dropped),
        adapter=adapter.directory,
    )


def merged_adapters(config: TimesformerConfig) -> list[Mapping[str, Any]]:
    """The adapters that the weights of a config contain already: name, base and fingerprint of each."""
    records = config.extra.get(MERGED, ())
    records = records if isinstance(records, tuple) else ()
    return [record for record in records if isinstance(record, Mapping) and {"adapter", "base"} <= record.keys()]


def _require_new(config: TimesformerConfig, adapter: Adapter) -> None:
    if any(record.get("sha256") == adapter.sha256 for record in merged_adapters(config)):
        raise CheckpointError(f"{adapter.base_name} has {adapter.name} merged into it already; use it as it is.")


def _config(base: TimesformerConfig, adapter: Adapter, *, brings_head: bool) -> TimesformerConfig:
    """The config of the merged model: the base's, but for the classes of a classifier that the adapter holds.

    PEFT writes no config.json beside an adapter; where people put one, its class names count, as for Transformers, and
    it must describe the same model otherwise.
    """
    config, file = base, adapter.directory / "config.json"
    if brings_head:
        config = config.replace(num_labels=adapter.tensors["classifier.weight"].shape[0])
    if file.is_file():
        own = TimesformerConfig.from_json_file(file)
        different = [name for name in _ARCHITECTURE if getattr(own, name) != getattr(base, name)]
        if different:
            raise CheckpointError(
                f"{file} says {different[0]} {getattr(own, different[0])!r} and the config of the base "
                f"{adapter.base_name} {getattr(base, different[0])!r}; the adapter belongs to another base, which "
                "--base (base= in Python) can name."
            )
        if own.num_labels == config.num_labels:
            config = config.replace(id2label=own.id2label, label2id=own.label2id, problem_type=own.problem_type)
    records = [*merged_adapters(config), adapter.record]
    return config.replace(extra={**config.extra, MERGED: records})


_ARCHITECTURE = (
    *("image_size", "patch_size", "num_channels", "num_frames", "hidden_size", "num_hidden_layers"),
    *("num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps", "qkv_bias", "attention_type"),
)


def _merge(
    base: StoredModel, adapter: Adapter, changed: list[str], table: list[Entry], dtype: np.dtype | None, *, prefix: str
) -> Params:
    """Reads the base and merges the adapter into it, parameter by parameter.

    Args:
        base: the base.
        adapter: the adapter, which fits it.
        changed: the modules that LoRA changes.
        table: the parameters of the merged model.
        dtype: the type of the result; None takes that of the base's parameter.
        prefix: what PEFT's names have before those of the table.
    """
    params = base.read(None)
    root = (BACKBONE,) if base.has_head else ()
    common = get_leaf(params, (*root, "layernorm", "scale")).dtype
    merged: Params = {}
    for entry in table:
        inner = entry.path[1:] if entry.path[0] == BACKBONE else entry.path
        replaced = entry.path[0] == "classifier" and "classifier.weight" in adapter.tensors
        place = inner if inner[0] == "classifier" else (*root, *inner)
        old = None if replaced else get_leaf(params, place)
        set_leaf(params, place, None)  # its memory is free before the next one is made
        target = dtype or (common if old is None else old.dtype)
        names = [f"{prefix}{name}" for name in entry.names]
        if old is not None and not any(_concerns(adapter, changed, name) for name in names):
            set_leaf(merged, entry.path, old.astype(target, copy=False))
            continue
        leaf = empty_array((len(names), *entry.flax_shape), target)
        layers = [None] * len(names) if old is None else old if entry.layers is not None else old[None]
        with np.errstate(over="ignore", invalid="ignore"):  # what a narrower type can't hold is counted and told
            for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
                weight = None if layer is None else entry.to_torch(layer).astype(np.float64)
                entry.copy_to_flax(_merged_tensor(adapter, changed, name, weight), leaf[number])
        set_leaf(merged, entry.path, leaf if entry.layers is not None else leaf[0])
    return merged


def _concerns(adapter: Adapter, changed: list[str], name: str) -> bool:
    return name in adapter.tensors or name.rpartition(".")[0] in changed


def _merged_tensor(adapter: Adapter, changed: list[str], name: str, weight: Any) -> np.ndarray:
    """A tensor of the merged model in float64.

    Args:
        adapter: the adapter.
        changed: the modules that LoRA changes.
        name: the tensor's name, as PEFT saw it.
        weight: the base's values; None where the adapter replaces them.
    """
    if name in adapter.tensors:
        weight = _read(adapter, name)
    module, _, part = name.rpartition(".")
    if module not in changed:
        return weight
    scaling = adapter.config.scaling(module)
    if part == "bias":
        return weight + scaling * _read(adapter, f"{module}.lora_B.bias") if adapter.config.lora_bias else weight
    first, second = (_read(adapter, f"{module}.lora_{matrix}.weight") for matrix in "AB")
    product = second.reshape(len(second), -1) @ first.reshape(len(first), -1)
    weight = weight + scaling * product.reshape(weight.shape)
    if not adapter.config.use_dora:
        return weight
    rows = weight.reshape(len(weight), -1)
    lengths = _read(adapter, f"{module}.lora_magnitude_vector").reshape(-1, 1)
    return (lengths / np.linalg.norm(rows, axis=1, keepdims=True) * rows).reshape(weight.shape)


def _read(adapter: Adapter, name: str) -> np.ndarray:
    return adapter.tensors[name].read().astype(np.float64)


def _renamed(tensors: Tensors, *, head: bool, without_head: bool) -> Tensors:
    """The base's tensors by the names that they have in the merged model, without a classifier that is not its."""
    plain = {name.removeprefix(f"{BACKBONE}."): tensor for name, tensor in tensors.items()}
    plain = {name: tensor for name, tensor in plain.items() if not name.startswith("classifier.")}
    kept = {name: t for name, t in tensors.items() if name.startswith("classifier.") and head and not without_head}
    return {**{f"{BACKBONE}.{name}" if head else name: tensor for name, tensor in plain.items()}, **kept}
