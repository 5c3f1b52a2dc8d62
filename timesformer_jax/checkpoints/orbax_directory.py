"""Converted directories: parameters in Orbax, with config.json and preprocessor_config.json beside them."""

import contextlib
import ctypes
import errno
import gc
import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError, first_line
from ..support.files import read_json
from .huggingface import FLOAT_DTYPES, require_exact
from .mapping import BACKBONE, Params, flat_names, get_leaf, mapping_table, set_leaf
from .tensors import empty_array

PARAMS = "params"


def is_converted(directory: Path) -> bool:
    """Whether a directory holds parameters that `save_params` wrote."""
    return (directory / PARAMS).is_dir()


def save_params(directory: Path, params: Mapping[str, Any]) -> None:
    """Writes a tree of arrays to `directory`/params. Of several processes, the one that calls this writes alone.

    Raises:
        OSError: the files can't be written.
    """
    import orbax.checkpoint as ocp

    path = (directory / PARAMS).absolute()
    # Orbax copies numpy arrays before it writes them, but not JAX's; x64 keeps float64 what it is.
    several = jax.process_count() > 1
    with jax.enable_x64(True):
        # Of several processes' arrays Orbax takes only numpy's from one of them.
        tree = jax.tree.map(np.asarray if several else jax.device_put, dict(params))
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(me, {me}, "alone") if several else ocp.options.MultiprocessingOptions()
    try:
        # Trained weights don't compress: zstd would save 8% of the space and cost half of the memory again.
        handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            checkpointer.save(path, args=ocp.args.PyTreeSave(tree))
    except Exception as error:
        _remove_for_good(path)
        raise OSError(errno.EIO, f"can't be written ({first_line(error)})", str(path)) from error


def _remove_for_good(path: Path) -> None:
    """Removes what a failed save of `path` has written, and what TensorStore's threads go on writing.

    After the first error Orbax doesn't wait for them, and they make missing directories anew: what they write counts as
    gone when it has not come back for a second.
    """
    absent = 0
    while absent < 20:
        leftovers = list(path.parent.glob(f"{path.name}*"))  # Orbax writes beside it, under a longer name
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)
        time.sleep(0.05)
        absent = 0 if leftovers else absent + 1


def load_params(directory: Path, config: TimesformerConfig, dtype: np.dtype | None = None) -> tuple[Params, bool]:
    """Reads `directory`/params into numpy arrays.

    Args:
        directory: a converted directory.
        config: the model the parameters belong to.
        dtype: of the arrays; None keeps the files' own.

    Returns:
        The parameters, and whether they are those of the classifier (True) or of the bare model.

    Raises:
        CheckpointError: the files are damaged, or are not those of a model with this config.
    """
    import orbax.checkpoint as ocp

    path = (directory / PARAMS).absolute()
    head = require_stored(path, stored_params(directory), config)
    params: Params = {}
    _return_freed_memory()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        # One at a time and the largest first: reading one takes twice its size for a moment.
        for entry in sorted(mapping_table(config, head=head), key=lambda entry: -math.prod(entry.shape)):
            item: Params = {}
            set_leaf(item, entry.path, 0)
            restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype), item)
            args = ocp.args.PyTreeRestore(item, restore_args=restore_args, partial_restore=True)
            try:
                restored = get_leaf(checkpointer.restore(path, args=args), entry.path)
                if np.shape(restored) != entry.shape or not isinstance(restored, np.ndarray):
                    raise ValueError(f"{'/'.join(entry.path)} is not in its metadata")
            except Exception as error:  # noqa: BLE001
                raise _damaged(path, error) from None
            leaf = empty_array(restored.shape, restored.dtype)
            leaf[...] = restored
            set_leaf(params, entry.path, leaf)
            del restored
            gc.collect(0)  # it is in a cycle of Orbax's futures
    return params, head


def stored_params(directory: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every parameter in `directory`/params by its path; none is read.

    Raises:
        CheckpointError: the files are damaged.
    """
    path = (directory / PARAMS).absolute()
    layout = read_json(path / "_METADATA", CheckpointError)
    try:
        has_database = (path / "manifest.ocdbt").is_file()
        if layout.get("use_ocdbt") and not has_database:
            raise ValueError("its manifest.ocdbt is missing")
        return (_database_entries(path) if has_database else {}) or _orbax_entries(path)
    except Exception as error:  # noqa: BLE001  Orbax and TensorStore raise many types on damaged files
        raise _damaged(path, error) from None


def _database_entries(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Reads the headers in the database that `save_params` writes, one by one.

    Orbax would open all parameters at once; where the database is damaged, its threads print tracebacks.
    """
    import tensorstore

    base = {"driver": "file", "path": f"{path}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    entries: dict[str, tuple[tuple[int, ...], str]] = {}
    for key in store.list().result():
        name, _, kind = key.decode().rpartition("/")
        if kind == ".zarray":
            header = json.loads(store.read(key).result().value)
            shape = tuple(int(size) for size in header["shape"])
            entries[name.replace(".", "/")] = (shape, str(np.dtype(header["dtype"])))
    return entries


def _orbax_entries(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        metadata = checkpointer.metadata(path).item_metadata
        if metadata is None:
            raise ValueError("its metadata can't be read")
        leaves = flat_names(metadata.tree)
        return {name: (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in leaves.items()}


def require_stored(path: Path, stored: Mapping[str, tuple[tuple[int, ...], str]], config: TimesformerConfig) -> bool:
    """Checks that `stored_params` are those of a model with this config.

    Returns:
        Whether they are those of the classifier (True) or of the bare model.

    Raises:
        CheckpointError: they are not; all that is wrong is listed.
    """
    head = _is_headed(stored)
    require_exact(
        path,
        {name: shape for name, (shape, _) in stored.items()},
        {"/".join(entry.path): entry.shape for entry in mapping_table(config, head=head)},
        [f"wrong type: {name} is {dtype}" for name, (_, dtype) in stored.items() if dtype not in FLOAT_DTYPES],
    )
    return head


def stored_head(directory: Path) -> bool:
    """Whether the parameters in `directory`/params are those of the classifier or of the bare model.

    Raises:
        CheckpointError: the files are damaged.
    """
    return _is_headed(stored_params(directory))


def _is_headed(names: Iterable[str]) -> bool:
    return any(name.startswith(f"{BACKBONE}/") for name in names)


def _return_freed_memory() -> None:
    """Lets glibc give large buffers back to the system as soon as they are freed.

    Otherwise it keeps those of up to 32 MB for reuse, some for each of the threads that Orbax reads in: up to a quarter
    of the base model's size.
    """
    m_mmap_threshold = -3  # of malloc.h
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no mallopt
        ctypes.CDLL(None).mallopt(m_mmap_threshold, 24 * 2**20)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is not a readable Orbax checkpoint ({first_line(error)})")
