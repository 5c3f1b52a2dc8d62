"""TimeSformers of Transformers in weights files, also below prefixes and without a config.json."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..config import TimesformerConfig
from ..errors import CheckpointError
from ..parameters import BACKBONE
from .huggingface import torch_model
from .names import PATCHES, attention_type, config_from_shapes
from .stored_model import StoredModel
from .weights_file import WeightsFile

logger = logging.getLogger("timesformer_jax")


def open_transformers(
    file: WeightsFile, prefix: str, config: Callable[[], TimesformerConfig] | None, known: Mapping[str, Any]
) -> StoredModel:
    """Opens a `TimesformerModel` or `TimesformerForVideoClassification` of Transformers.

    Args:
        file: the opened file.
        prefix: what stands before the names of its tensors.
        config: reads the config.json beside it; None where there is none, and the shapes tell the architecture.
        known: config fields that the user gives, for those that the shapes don't tell.

    Raises:
        CheckpointError: there is no config.json, and the tensors don't tell the architecture.
        ConfigError: no model can have this config.
    """
    tensors, own_name = file.without_prefix(prefix), file.naming(prefix)
    if config is not None:
        found = config()
    else:
        bare = {name.removeprefix(f"{BACKBONE}."): tensor for name, tensor in tensors.items()}
        if not any(name.endswith(".attention.attention.qkv.weight") for name in bare):
            raise CheckpointError(f"{file.path} has no config.json beside it that says which model it is.")
        width = bare[PATCHES].shape[:1] if PATCHES in bare else ()
        if known.get("num_attention_heads") is None and width != (TimesformerConfig.hidden_size,):
            raise CheckpointError(
                f"{file.path} has no config.json beside it, and no tensor tells how many heads share its width, which "
                "is not that of the published models; give num_attention_heads, or put the config.json there."
            )
        has_head = bare.keys() != tensors.keys() or PATCHES not in tensors

        def in_file(name: str) -> str:
            return own_name(f"{BACKBONE}.{name}" if has_head and not name.startswith("classifier.") else name)

        found = config_from_shapes(file.path, bare, known, in_file, attention_type=attention_type(bare))
        logger.warning(
            "%s has no config.json beside it: the shapes of its tensors tell the model; num_attention_heads is %d, "
            "layer_norm_eps %g and hidden_act %s unless another is given",
            *(file.path, found.num_attention_heads, found.layer_norm_eps, found.hidden_act),
        )
    return torch_model(file.path, tensors, found, "TimeSformer in the format of Transformers", own_name)
