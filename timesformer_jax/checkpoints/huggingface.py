"""Checkpoints in Transformers' format: reads a state dict as a tree of Flax parameters, and writes one."""

import errno
import json
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError

from ..config import TimesformerConfig
from ..errors import CheckpointError
from ..parameters import BACKBONE
from ..schemes import unknown_to_transformers
from .mapping import Entry, Params, flat_names, get_leaf, mapping_table, set_leaf
from .stored_model import StoredModel, require_exact
from .tensors import Tensors, empty_array

WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where Transformers keeps weights, in the order in which it looks for them."""

_READERS = 2
"""Threads that arrange tensors: each holds one of them."""


def find_weights(directory: Path) -> Path | None:
    """The first of `WEIGHTS_FILES` that a directory has; None if it has none."""
    return next((directory / name for name in WEIGHTS_FILES if (directory / name).is_file()), None)


def is_weights_file(name: str) -> bool:
    """Whether Transformers would take a file of this name for weights, or for one of their shards."""
    return re.fullmatch(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?", name) is not None


def has_head(names: Mapping[str, Any]) -> bool:
    """Whether a state dict is the classifier's: the names of the bare model lack the prefix "timesformer."."""
    return any(name.startswith((f"{BACKBONE}.", "classifier.")) for name in names)


def torch_model(
    where: Path,
    tensors: Tensors,
    config: TimesformerConfig,
    format: str,
    own_name: Callable[[str], str] = str,
    **others: Any,
) -> StoredModel:
    """The stored model of tensors that have the names of Transformers.

    Args:
        where: the file that holds the tensors, for errors.
        tensors: those of the classifier or of the bare model.
        config: the config of the model.
        format: what the checkpoint is, in words.
        own_name: gives the name that a tensor has in the file, for errors.
        **others: further fields of `StoredModel`.
    """
    head = has_head(tensors)
    table = mapping_table(config, head=head)

    def require_complete() -> None:
        """Checks that tensors are all those of the model and can be read, before any is."""
        problems = [tensor.problem for tensor in tensors.values() if tensor.problem]
        sound = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items() if not tensor.problem}
        expected = {name: entry.torch_shape for entry in table for name in entry.names}
        require_exact(
            where,
            {own_name(name): stored for name, stored in sound.items()},
            {own_name(name): shape for name, shape in expected.items() if name in sound or name not in tensors},
            problems,
        )

    def read(dtype: np.dtype | None) -> Params:
        require_complete()
        return _read_params(tensors, table, dtype)

    return StoredModel(format, config, head, require_complete, read, tensors, **others)


def _read_params(tensors: Tensors, table: list[Entry], dtype: np.dtype | None) -> Params:
    """Reads a state dict into numpy arrays, tensor by tensor."""
    one_reader = threading.Lock()  # the readers of pickles and of the Hub's files are not made for several threads

    def read(entry: Entry) -> np.ndarray | None:
        leaf: np.ndarray | None = None
        for layer, name in enumerate(entry.names):
            with one_reader:
                tensor = tensors[name].read()
            if leaf is None:
                leaf = empty_array((len(entry.names), *entry.flax_shape), dtype or tensor.dtype)
            elif dtype is None:
                leaf = leaf.astype(_wider(leaf.dtype, tensor.dtype), copy=False)
            with np.errstate(over="ignore", invalid="ignore"):  # what a narrower type can't hold is counted and told
                entry.copy_to_flax(tensor, leaf[layer])
        return leaf if leaf is None or entry.layers is not None else leaf[0]

    params: Params = {}
    with ThreadPoolExecutor(_READERS) as pool:  # turning a matrix over takes longer than reading it
        for entry, leaf in zip(table, pool.map(read, table), strict=True):
            if leaf is not None:
                set_leaf(params, entry.path, leaf)
    return params


def require_params(params: Mapping[str, Any], config: TimesformerConfig) -> list[Entry]:
    """Checks that a tree holds the parameters of a model with this config, and gives the table that names them.

    Raises:
        CheckpointError: parameters are unknown, missing or wrongly shaped; all are listed.
    """
    table = mapping_table(config, head=BACKBONE in params)
    shapes = {name: (np.shape(leaf), "") for name, leaf in flat_names(params).items()}
    require_exact("the parameters", shapes, {"/".join(entry.path): entry.shape for entry in table})
    return table


def to_state_dict(params: Mapping[str, Any], config: TimesformerConfig) -> dict[str, np.ndarray]:
    """The PyTorch tensors for a tree of parameters, of the classifier or of the bare model, in the tree's own dtype.

    Raises:
        CheckpointError: parameters are unknown, missing or wrongly shaped for this config; all are listed.
    """
    table = require_params(params, config)
    state: dict[str, np.ndarray] = {}
    for entry in table:
        leaf = np.asarray(get_leaf(params, entry.path))
        for name, parameter in zip(entry.names, [leaf] if entry.layers is None else leaf, strict=True):
            state[name] = np.ascontiguousarray(entry.to_torch(parameter))
    return state


def require_known(config: TimesformerConfig) -> None:
    """Checks that Transformers has a model for a config.

    Raises:
        CheckpointError: it has none.
    """
    unknown = unknown_to_transformers(config)
    if unknown is not None:
        raise CheckpointError(
            f"Transformers has no TimeSformer with {unknown}, so there is none in its format; keep this model as a "
            "converted directory (`model.save_converted`, or `convert_hf_to_flax SOURCE DEST` for a training run)."
        )


def save_state_dict(
    directory: Path, params: Mapping[str, Any], config: TimesformerConfig, max_shard_size: int | str = "5GB"
) -> None:
    """Writes config.json and model.safetensors (or shards and their index) into a directory, as Transformers does.

    Raises:
        CheckpointError: the parameters are not those of a model with this config, or Transformers has no such model.
        OSError: the files can't be written.
    """
    require_known(config)
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.numpy import save_file

    state = to_state_dict(params, config)
    split = split_state_dict_into_shards_factory(
        state,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for filename, names in split.filename_to_tensors.items():
        try:
            save_file({name: state[name] for name in names}, directory / filename, metadata={"format": "pt"})
        except SafetensorError as error:  # what it makes of a full disk, among others
            raise OSError(errno.EIO, f"can't be written ({error})", str(directory / filename)) from error
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    architecture = "TimesformerForVideoClassification" if BACKBONE in params else "TimesformerModel"
    dtype = str(next(iter(state.values())).dtype)
    extra = dict(config.extra) | {"architectures": (architecture,)}
    # What the weights are stored as: `dtype` to Transformers 5, `torch_dtype` to 4.
    extra = {key: value for key, value in extra.items() if key not in ("dtype", "torch_dtype")} | {"torch_dtype": dtype}
    config.replace(extra=extra).save_json_file(directory / "config.json")


def _wider(first: np.dtype, second: np.dtype) -> np.dtype:
    """A type that holds the values of both; numpy alone does not know bfloat16."""
    if first != second and ml_dtypes.bfloat16 in (first, second):
        return np.result_type(*(np.float32 if dtype == ml_dtypes.bfloat16 else dtype for dtype in (first, second)))
    return np.result_type(first, second)
