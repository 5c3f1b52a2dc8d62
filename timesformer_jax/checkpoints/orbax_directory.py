"""Converted directories: parameters in Orbax, with config.json and preprocessor_config.json beside them."""

import contextlib
import ctypes
import dataclasses
import errno
import gc
import json
import math
import shutil
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..config import TimesformerConfig
from ..errors import CheckpointError, first_line
from ..parameters import BACKBONE
from ..support.files import read_json
from .mapping import Params, get_leaf, mapping_table, set_leaf
from .stored_model import StoredModel, require_exact
from .tensors import Shapes, empty_array

PARAMS = "params"


V1_ITEMS = ("state", "pytree")
"""The folders in which Orbax's V1 interface keeps a tree: of 0.12, and of 0.11."""


def is_converted(directory: Path) -> bool:
    """Whether a directory holds parameters that `save_params` wrote."""
    return (directory / PARAMS).is_dir()


def save_params(directory: Path, params: Mapping[str, Any]) -> None:
    """Writes a tree of arrays to `directory`/params. Where there are several processes, the caller writes alone.

    Raises:
        OSError: the files can't be written.
    """
    import orbax.checkpoint as ocp

    path = (directory / PARAMS).absolute()
    # Orbax copies numpy arrays before it writes them, but not JAX's; x64 keeps float64 what it is.
    several = jax.process_count() > 1
    with jax.enable_x64(True):
        # From one of several processes Orbax takes numpy arrays alone.
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

    After the first error Orbax doesn't wait for them, and they make missing directories anew: the files count as gone
    when they have not come back for a second.
    """
    absent = 0
    while absent < 20:
        leftovers = list(path.parent.glob(f"{path.name}*"))  # Orbax writes beside it, under a longer name
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)
        time.sleep(0.05)
        absent = 0 if leftovers else absent + 1


@dataclasses.dataclass(frozen=True)
class OrbaxParams:
    """Parameters in a directory of Orbax's that are not read yet.

    Attributes:
        path: the directory, as errors name it.
        files: where Orbax finds its files.
        shapes: the shape and type of every parameter by its path.
        format: what the checkpoint is, in words.
        field: the field of the stored tree that holds the parameters; None where they are the whole tree.
        facts: further facts, each under a short name.
    """

    path: Path
    files: Path
    shapes: Shapes
    format: str
    field: str | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def model(self, config: TimesformerConfig) -> StoredModel:
        """The stored model, which the config describes."""
        head = any(name.startswith(f"{BACKBONE}/") for name in self.shapes)

        def require_complete() -> None:
            table = mapping_table(config, head=head)
            require_exact(self.path, self.shapes, {"/".join(entry.path): entry.shape for entry in table})

        def read(dtype: np.dtype | None) -> Params:
            require_complete()
            return self._read(config, head, dtype)

        return StoredModel(self.format, config, head, require_complete, read)

    def _read(self, config: TimesformerConfig, head: bool, dtype: np.dtype | None) -> Params:
        import orbax.checkpoint as ocp

        params: Params = {}
        _return_freed_memory()
        with _naming(self.path), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            # One at a time and the largest first: reading one takes twice its size for a moment.
            for entry in sorted(mapping_table(config, head=head), key=lambda entry: -math.prod(entry.shape)):
                path = entry.path if self.field is None else (self.field, *entry.path)
                item: Params = {}
                set_leaf(item, path, 0)
                restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype), item)
                args = ocp.args.PyTreeRestore(item, restore_args=restore_args, partial_restore=True)
                # Orbax finds nothing at relative paths.
                restored = get_leaf(checkpointer.restore(self.files.absolute(), args=args), path)
                if np.shape(restored) != entry.shape or not isinstance(restored, np.ndarray):
                    raise ValueError(f"{'/'.join(entry.path)} is not what its metadata says")
                leaf = empty_array(restored.shape, restored.dtype)
                leaf[...] = restored
                set_leaf(params, entry.path, leaf)
                del restored
                gc.collect(0)  # it is in a cycle of Orbax's futures
        return params


def open_converted(directory: Path) -> OrbaxParams:
    """Opens the parameters of a converted directory.

    Raises:
        CheckpointError: the files are damaged.
    """
    path = (directory / PARAMS).absolute()
    files = next((path / item for item in V1_ITEMS if (path / item / "_METADATA").is_file()), path)
    return OrbaxParams(path, files, stored_shapes(files, path), "TimeSformer in a converted directory (Orbax)")


def stored_shapes(files: Path, path: Path) -> Shapes:
    """Shape and type of every array that Orbax has stored, by its path in the tree; none is read.

    Args:
        files: Orbax's directory.
        path: the path that errors name.

    Raises:
        CheckpointError: the files are damaged.
    """
    files = files.absolute()
    with _naming(path):
        layout = read_json(files / "_METADATA", CheckpointError)
        has_database = (files / "manifest.ocdbt").is_file()
        if layout.get("use_ocdbt") and not has_database:
            raise ValueError("its manifest.ocdbt is missing")
        return (_database_entries(files) if has_database else {}) or _orbax_entries(files)


def _database_entries(path: Path) -> Shapes:
    """Reads the headers in the database that `save_params` writes, one by one.

    Orbax would open all parameters at once; where the database is damaged, its threads print tracebacks.
    """
    import tensorstore

    base = {"driver": "file", "path": f"{path}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    entries: dict[str, tuple[tuple[int, ...], str]] = {}
    for key in store.list().result():
        name, _, entry = key.decode().rpartition("/")
        if entry == ".zarray":
            header = json.loads(store.read(key).result().value)
            shape = tuple(int(size) for size in header["shape"])
            entries[name.replace(".", "/")] = (shape, str(np.dtype(header["dtype"])))
    return entries


def _orbax_entries(path: Path) -> Shapes:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        metadata = checkpointer.metadata(path).item_metadata
        if metadata is None:
            raise ValueError("its metadata can't be read")
        leaves = jax.tree.leaves_with_path(metadata.tree)
        return {
            jax.tree_util.keystr(key, simple=True, separator="/"): (tuple(leaf.shape), str(np.dtype(leaf.dtype)))
            for key, leaf in leaves
        }


def _return_freed_memory() -> None:
    """Lets glibc give large buffers back to the system as soon as they are freed.

    Otherwise it keeps those of up to 32 MB for reuse, some for each of the threads that Orbax reads in: up to a quarter
    of the base model's size.
    """
    m_mmap_threshold = -3  # of malloc.h
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no mallopt
        ctypes.CDLL(None).mallopt(m_mmap_threshold, 24 * 2**20)


@contextlib.contextmanager
def _naming(path: Path) -> Generator[None]:
    """Turns what Orbax and TensorStore raise on damaged files, many types, into an error that names the checkpoint."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001
        raise CheckpointError(f"{path} is not a readable Orbax checkpoint ({first_line(error)}).") from None
