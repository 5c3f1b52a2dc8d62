"""Tells the formats of checkpoints apart by what is inside. Each has an opener, and this module alone knows all."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from ..parameters import BACKBONE
from ..support.files import read_json
from .adapter_merging import merged
from .adapters import AdapterFiles, open_adapter, require_no_adapter_layers
from .mmaction2 import MMACTION2_BACKBONE, MMACTION2_MARK, open_mmaction2
from .names import PATCHES
from .orbax_directory import OrbaxParams, open_converted
from .original import MARK, is_original, open_original
from .prefixes import around, without_wrappers
from .source import AdapterSource, Source
from .stored_model import StoredModel
from .training_run import TrainingWeights, open_training_run
from .transformers_file import open_transformers
from .vit import PatchOrder, open_timm_vit, open_transformers_vit
from .weights_file import WeightsFile, open_weights_file


def open_files(
    source: Source, training_weights: TrainingWeights | None = None
) -> WeightsFile | OrbaxParams | AdapterFiles:
    """Opens the files of a checkpoint: gives the names and shapes of what they hold, and reads none of it.

    Args:
        source: where the checkpoint is.
        training_weights: which parameters of a training run, or of a file with two copies, to take (see
            `open_checkpoint`).

    Raises:
        CheckpointError: the files are damaged, or hold no tensors.
    """
    if not isinstance(source, AdapterSource):
        return _open_model(source, training_weights)
    adapter = open_adapter(source.directory, source.name, source.base.name)
    return AdapterFiles(adapter, _open_model(source.base, training_weights))


def _open_model(source: Source, training_weights: TrainingWeights | None) -> WeightsFile | OrbaxParams:
    match source.layout:
        case "weights file":
            return open_weights_file(source.weights, training_weights)
        case "converted directory":
            return open_converted(source.weights)
        case "training run":
            return open_training_run(source.weights, training_weights)


def recognise(
    source: Source,
    files: WeightsFile | OrbaxParams | AdapterFiles,
    known: Mapping[str, Any],
    patch_order: PatchOrder | None = None,
) -> StoredModel:
    """Tells which model the files of a checkpoint hold, by the names of its tensors.

    Args:
        source: where the checkpoint is.
        files: its files, opened.
        known: config fields that the user gives, for what a file does not tell.
        patch_order: how patches were flattened (see vit.py).

    Raises:
        CheckpointError: the files hold no model that is known here, or an argument is needed that was not given; the
            message names it.
        ConfigError: no model can have its config.
    """
    if isinstance(source, AdapterSource) and isinstance(files, AdapterFiles):
        base = recognise(source.base, files.base, known, patch_order)
        if source.own_processor_file is not None:
            base = dataclasses.replace(base, processor=None, unknown_order=None)
        return merged(base, files.adapter)
    assert not isinstance(files, AdapterFiles), "an adapter's files come with its own source"
    if isinstance(files, OrbaxParams):
        return files.model(source.config())
    require_no_adapter_layers(files.path, files.tensors)
    stored, others = _in_weights_file(source, files, known, patch_order)
    return dataclasses.replace(stored, dropped=stored.dropped + others)


def _in_weights_file(
    source: Source, files: WeightsFile, known: Mapping[str, Any], patch_order: PatchOrder | None
) -> tuple[StoredModel, tuple[str, ...]]:
    """The model in a weights file, and the tensors beside it, outside the module that has its prefix."""
    prefix = files.prefix_before(MARK)
    if prefix is not None:
        files, others = files.below(_module_with_head(files, prefix))
        if is_original(files):
            return open_original(files, prefix, known), others
        return open_timm_vit(files, prefix, known, patch_order), others
    prefix = files.prefix_before(MMACTION2_MARK)
    if prefix is not None:
        files, others = files.below(around(prefix, MMACTION2_BACKBONE))
        return open_mmaction2(files, prefix, known), others
    config_file = source.directory / "config.json"
    prefix = files.prefix_before(PATCHES)
    if prefix is None and not config_file.is_file():
        names = ", ".join(list(files.tensors)[:3])
        raise CheckpointError(f"{files.path} is no TimeSformer and no ViT: its tensors are called {names} and so on.")
    if config_file.is_file() and read_json(config_file, CheckpointError).get("model_type") == "vit":
        files, others = files.below(around(prefix or "", "vit"))
        return open_transformers_vit(files, prefix or "", known, patch_order), others
    prefix = around(prefix or "", BACKBONE)
    files, others = files.below(prefix)
    return open_transformers(files, prefix, source.config if config_file.is_file() else None, known), others


def _module_with_head(files: WeightsFile, prefix: str) -> str:
    """The prefix of the module that has the classifier: that of the encoder, or of what holds the two of them."""
    outer, names = around(prefix), set(map(without_wrappers, files.tensors))
    heads = [without_wrappers(f"{module}head.weight") for module in (prefix, outer)]
    return outer if heads[0] not in names and heads[1] in names else prefix
