"""Reads files of named tensors, one tensor at a time: safetensors without torch, pickles with it."""

import contextlib
import dataclasses
import logging
import math
import mmap
import zipfile
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError, first_line
from ..support.files import is_lfs_pointer, read_json
from .mapping import flat_names
from .signatures import class_in_pickle, how_to_strip, kind_of_file, may_be_pickle

logger = logging.getLogger("timesformer_jax")


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor of a file that has not been read yet.

    Attributes:
        shape: the shape, which is known without reading.
        file: the file that holds it.
        read: reads the values.
        dtype: the type as numpy and ml_dtypes call it; "" where the file's header does not say.
        problem: why it must not be used (two shards hold it, for example); "" for a sound tensor.
    """

    shape: tuple[int, ...]
    file: Path
    read: Callable[[], np.ndarray]
    dtype: str = ""
    problem: str = ""


Tensors = dict[str, LazyTensor]
Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and type of arrays by their names."""


def empty_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new array in pages of its own.

    On a CPU `jax.device_put` adopts it instead of copying it, and its memory goes back to the system as soon as it is
    free: the peak while a checkpoint is read stays near the size of the file.
    """
    return np.ndarray(shape, dtype, buffer=mmap.mmap(-1, max(1, math.prod(shape) * dtype.itemsize)))


def warn_of_not_finite(where: str, params: Mapping[str, Any]) -> None:
    """Logs a warning that counts the NaN and infinite values of a tree of arrays, if there are any."""
    leaves = flat_names(params)
    with ThreadPoolExecutor(2) as pool:
        counts = dict(zip(leaves, pool.map(_count_not_finite, leaves.values()), strict=True))
    found = [f"{name} ({count:,})" for name, count in counts.items() if count]
    if found:
        logger.warning("%s: %s weights are NaN or infinite: %s", where, f"{sum(counts.values()):,}", _listed(found))


def _count_not_finite(array: np.ndarray) -> int:
    # Row by row: a mask of the largest parameter would be a quarter of its size.
    rows = array if array.ndim > 1 else array[None]
    return sum(row.size - int(np.count_nonzero(np.isfinite(row))) for row in rows)


def open_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors file, a .bin pickle, or all the files that a shard index names.

    Raises:
        CheckpointError: a file is missing or damaged, or holds something else.
    """
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    return pickled_tensors(path, load_pickle(path))


def shard_names(index: Path) -> list[str]:
    """The files that a shard index names.

    Raises:
        CheckpointError: the index can't be read, or names anything but files beside itself.
    """
    weight_map = _weight_map(index)
    for shard in weight_map.values():
        if Path(shard).name != shard or shard == ".." or shard.endswith(".index.json"):
            raise CheckpointError(f"{index} names the shard {shard!r}, which is no file beside it.")
    return sorted(set(weight_map.values()))


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map that says which file holds which tensor.")
    return weight_map


def _open_shards(index: Path) -> Tensors:
    tensors: Tensors = {}
    for shard in shard_names(index):
        for name, tensor in open_tensors(_shard_path(index, shard)).items():
            if name in tensors:
                problem = f"doubled: {name} is in {tensors[name].file.name} and in {shard}"
                tensor = dataclasses.replace(tensor, problem=problem)
            tensors[name] = tensor
    for name in _weight_map(index).keys() - tensors.keys():
        problem = f"missing: {name}, which the index promises, is in no shard"
        tensors[name] = LazyTensor((), index, _unreadable, problem=problem)
    return tensors


def _shard_path(index: Path, shard: str) -> Path:
    path = index.parent / shard
    if not path.is_file():
        raise CheckpointError(f"{index} names the shard {shard!r}, which is missing from {index.parent}.")
    directory = index.parent.resolve()
    # The Hub's cache keeps a repository as links in snapshots/COMMIT/ to files in blobs/.
    allowed = {directory, directory.parent.parent / "blobs"} if directory.parent.name == "snapshots" else {directory}
    if path.resolve().parent not in allowed:
        raise CheckpointError(f"{index} names the shard {shard!r}, a link to {path.resolve()} in another directory.")
    return path


def _unreadable() -> np.ndarray:
    raise CheckpointError("a tensor that no file holds was read")


def _require_file(path: Path) -> None:
    """Checks for what is often met in place of a file of weights.

    Raises:
        CheckpointError: the path is no file, or the file is empty or a pointer of Git LFS.
    """
    with _naming(path):
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is not a file, so it holds no weights.")
        with path.open("rb") as file:
            start = file.read(64)
    if not start:
        raise CheckpointError(f"{path} is empty (0 bytes); download or copy it again.")
    if is_lfs_pointer(start):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights themselves; run `git lfs pull` beside it.")


def _open_safetensors(path: Path) -> Tensors:
    _require_file(path)
    with _naming(path):
        # pread and not mmap: pages of a mapped file would count as memory until the last tensor is read.
        file = safe_open(path, framework="np", backend="pread")
        return {name: _lazy_slice(file, path, name) for name in file.keys()}  # noqa: SIM118  (not a dict)


def _lazy_slice(file: Any, path: Path, name: str) -> LazyTensor:
    def read() -> np.ndarray:
        with _naming(path):
            return file.get_tensor(name)

    header = file.get_slice(name)
    dtype: str = header.get_dtype()
    return LazyTensor(tuple(header.get_shape()), path, read, _SAFETENSORS_DTYPES.get(dtype, dtype.lower()))


_SAFETENSORS_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def load_pickle(path: Path) -> Mapping[str, Any]:
    """Loads a PyTorch pickle; the tensors in it are mapped and not yet read.

    Raises:
        CheckpointError: torch is not installed, or the file is damaged or holds more than tensors and plain values.
    """
    _require_file(path)
    try:
        import torch
    except ImportError:
        if not may_be_pickle(path):
            raise CheckpointError(
                f"{path} holds no weights ({kind_of_file(path)}); give a safetensors file, a .bin or a .pyth."
            ) from None
        raise CheckpointError(
            f"{path} is a PyTorch pickle, which only torch can read; install it (pip install torch) or use a "
            "safetensors checkpoint."
        ) from None

    def load(mapped: bool) -> Any:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)

    with _naming(path):
        try:
            contents = load(mapped=True)
        except RuntimeError:  # files of torch before 1.6 can't be mapped
            contents = load(mapped=False)
    if not isinstance(contents, Mapping) or not contents:
        raise CheckpointError(f"{path} holds no state dict (names and tensors) but a {type(contents).__name__}.")
    return contents


def pickled_tensors(path: Path, contents: Mapping[str, Any], wrapper: str | None = None) -> Tensors:
    """The tensors of a state dict that `load_pickle` found in a file.

    Args:
        path: the file.
        contents: what is in it.
        wrapper: the key of `contents` that has the state dict; None when `contents` is one.

    Raises:
        CheckpointError: it is no state dict.
    """
    state = _MappedState(path, contents, wrapper)
    strange = [str(name) for name, tensor in state.tensors.items() if not _is_dense_tensor(tensor)]
    if strange:
        raise CheckpointError(f"{path} is no plain state dict: {_listed(strange)} hold no (dense) tensors.")
    return {
        str(name): LazyTensor(
            tuple(tensor.shape), path, lambda name=name: state.read(name), str(tensor.dtype).removeprefix("torch.")
        )
        for name, tensor in state.tensors.items()
    }


class _MappedState:
    """A state dict in a mapped file, which is mapped anew now and then because pages that were read count as memory."""

    most_mapped = 2**23

    def __init__(self, path: Path, contents: Mapping[str, Any], wrapper: str | None) -> None:
        self.path, self.wrapper, self.bytes_read = path, wrapper, 0
        self.is_mapped = zipfile.is_zipfile(path)  # files of torch before 1.6 are not, and are in memory as a whole
        self.tensors: Mapping[Any, Any] = contents if wrapper is None else contents[wrapper]

    def read(self, name: Any) -> np.ndarray:
        if self.is_mapped and self.bytes_read > self.most_mapped:
            self.tensors, self.bytes_read = {}, 0
            contents = load_pickle(self.path)
            self.tensors = contents if self.wrapper is None else contents[self.wrapper]
        with _naming(self.path):
            array = _to_numpy(self.tensors[name])
        self.bytes_read += array.nbytes
        return array


def _is_dense_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout is torch.strided and value.device.type == "cpu"


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # numpy has no such type of its own
        return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@contextlib.contextmanager
def _naming(path: Path) -> Generator[None]:
    """Turns what the readers raise into an error that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file ({error}).") from None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}.") from None
    except Exception as error:  # noqa: BLE001  torch.load raises nearly anything on a damaged or hostile file
        kind, objects = kind_of_file(path), class_in_pickle(error)
        if objects is not None:
            raise CheckpointError(f"{path} can't be loaded as tensors alone: {how_to_strip(path, objects)}") from None
        raise CheckpointError(f"{path} can't be loaded as tensors alone ({kind}: {first_line(error)}).") from None


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
