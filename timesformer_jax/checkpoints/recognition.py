"""Which model a weights file holds, told by the names of its tensors."""

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from ..support.files import read_json
from .contents import Contents, WeightsFile, open_weights, prefix_before
from .names import PATCHES
from .original import MARK, is_facebook, open_facebook
from .source import Source
from .vit import PatchOrder, open_timm_vit, open_transformers_vit


def open_contents(source: Source, known: Mapping[str, Any], patch_order: PatchOrder | None = None) -> Contents:
    """Opens a weights file, of whatever kind, as a TimeSformer of Transformers; no tensor is read.

    Args:
        source: no converted directory.
        known: config fields that the user gives, for what a file does not tell.
        patch_order: see vit.py.

    Raises:
        CheckpointError: the file is damaged, holds no model that is known here, or needs something to be given; the
            message names the argument.
        ConfigError: its config is impossible.
    """
    return recognise(source, open_weights(source.weights), known, patch_order)


def recognise(
    source: Source, file: WeightsFile, known: Mapping[str, Any], patch_order: PatchOrder | None = None
) -> Contents:
    """As `open_contents`, of a file that is open already."""
    prefix = prefix_before(file.tensors, MARK, file.path)
    if prefix is not None:
        if is_facebook(file):
            return open_facebook(file, prefix, known)
        return open_timm_vit(file, prefix, known, patch_order)
    config_file = source.directory / "config.json"
    prefix = prefix_before(file.tensors, PATCHES, file.path)
    if prefix is None and not config_file.is_file():
        names = ", ".join(list(file.tensors)[:3])
        raise CheckpointError(f"{file.path} is no TimeSformer and no ViT: its tensors are called {names} and so on.")
    if config_file.is_file() and read_json(config_file, CheckpointError).get("model_type") == "vit":
        return open_transformers_vit(file, prefix or "", known, patch_order)
    return Contents("transformers", source.config(), file.tensors)
