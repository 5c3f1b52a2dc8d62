"""Embeddings of many videos in one file: safetensors, npz or parquet, written video by video, never whole in memory."""

import dataclasses
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import TimesformerError
from ..support.files import write_atomically

SUFFIXES = (".safetensors", ".npz", ".parquet")

ReadFeature = Callable[[int, str], np.ndarray]
"""The embedding of one kind of the video with this number."""


@dataclasses.dataclass(frozen=True)
class Features:
    """Embeddings of many videos.

    Attributes:
        videos: their names, one for each row of the embeddings.
        embeddings: by kind: "cls" (videos, d), "frames" (videos, t, d), "patches" (videos, t, rows, columns, d).
        failures: why a video is missing, by its name.
        settings: what they were made with.
    """

    videos: tuple[str, ...]
    embeddings: Mapping[str, Float[np.ndarray, "videos ..."]]
    failures: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """What a file is to hold.

    Attributes:
        videos: their names.
        shapes: of one video's embedding of each kind.
        dtype: of the numbers, float32 or float16.
        row: reads one video's embedding.
        failures: why a video is missing, by its name.
        settings: what they were made with.
    """

    videos: Sequence[str]
    shapes: Mapping[str, tuple[int, ...]]
    dtype: np.dtype
    row: ReadFeature
    failures: Mapping[str, str]
    settings: Mapping[str, Any]

    def notes(self) -> dict[str, str]:
        """All but the numbers, as JSON."""
        notes = {"videos": list(self.videos), "failures": self.failures, "settings": self.settings}
        return {name: json.dumps(value) for name, value in notes.items()}


def require_writable(file: Path, *, overwrite: bool) -> None:
    """Checks, before anything is computed, that such a file can be written.

    Raises:
        TimesformerError: its suffix is not known, it is a directory, it exists already and may not be overwritten, or
            parquet is asked for and pyarrow is missing.
    """
    if file.suffix not in SUFFIXES:
        raise TimesformerError(f"{file} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    if file.is_dir():
        raise TimesformerError(f"{file} is a directory; choose another name.")
    if file.exists() and not overwrite:
        raise TimesformerError(f"{file} exists already; choose another name or pass --overwrite.")
    if file.suffix == ".parquet":
        _pyarrow(file)


def write_features(file: Path, contents: FeatureTable) -> None:
    """Writes one file, whole or not at all; the suffix tells the format."""
    write = {".safetensors": _write_safetensors, ".npz": _write_npz, ".parquet": _write_parquet}[file.suffix]
    with write_atomically(file) as temporary:
        write(temporary, contents)


def read_features(file: str | PathLike[str]) -> Features:
    """Reads what `timesformer features` wrote.

    Raises:
        TimesformerError: it is no such file, or pyarrow is missing for a parquet file.
    """
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise TimesformerError(f"{path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    read = {".safetensors": _read_safetensors, ".npz": _read_npz, ".parquet": _read_parquet}[path.suffix]
    try:
        embeddings, notes = read(path)
        videos, failures, settings = (json.loads(notes[name]) for name in ("videos", "failures", "settings"))
    except TimesformerError:
        raise
    except OSError as error:
        raise TimesformerError(f"{path} can't be read: {error.strerror or error}.") from None
    except Exception as error:  # each library has errors of its own  # noqa: BLE001
        raise TimesformerError(f"{path} holds no features that `timesformer features` wrote ({error}).") from None
    return Features(tuple(videos), embeddings, failures, settings)


def _write_safetensors(path: Path, contents: FeatureTable) -> None:
    # By hand, for the library wants every tensor whole in memory.
    header: dict[str, Any] = {"__metadata__": contents.notes()}
    end, number = 0, contents.dtype.itemsize
    for kind, shape in contents.shapes.items():
        begin, end = end, end + len(contents.videos) * math.prod(shape) * number
        dtype = f"F{8 * number}"
        header[kind] = {"dtype": dtype, "shape": [len(contents.videos), *shape], "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for kind in contents.shapes:
            for i in range(len(contents.videos)):
                stream.write(_little_endian(contents.row(i, kind)))


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return {kind: file.get_tensor(kind) for kind in file.keys()}, file.metadata()  # noqa: SIM118


def _write_npz(path: Path, contents: FeatureTable) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for kind, shape in contents.shapes.items():
            with archive.open(f"{kind}.npy", "w", force_zip64=True) as stream:
                header = {"descr": contents.dtype.newbyteorder("<").str, "fortran_order": False}
                np.lib.format.write_array_header_1_0(stream, header | {"shape": (len(contents.videos), *shape)})
                for i in range(len(contents.videos)):
                    stream.write(_little_endian(contents.row(i, kind)))
        for name, text in contents.notes().items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, np.array(text), allow_pickle=False)


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive.items())
    notes = {name: str(arrays.pop(name)) for name in ("videos", "failures", "settings")}
    return arrays, notes


def _write_parquet(path: Path, contents: FeatureTable) -> None:
    pyarrow, parquet = _pyarrow(path)
    number = pyarrow.from_numpy_dtype(contents.dtype)
    kinds = {kind: pyarrow.list_(number, math.prod(shape)) for kind, shape in contents.shapes.items()}
    notes = contents.notes() | {"shapes": json.dumps(contents.shapes)}
    schema = pyarrow.schema({"video": pyarrow.string(), **kinds}, metadata=notes)
    with parquet.ParquetWriter(path, schema) as writer:
        for i, video in enumerate(contents.videos):
            columns = [
                pyarrow.FixedSizeListArray.from_arrays(contents.row(i, kind).ravel(), math.prod(shape))
                for kind, shape in contents.shapes.items()
            ]
            writer.write_batch(pyarrow.record_batch([pyarrow.array([video]), *columns], schema=schema))


def _read_parquet(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    _, parquet = _pyarrow(path)
    table = parquet.read_table(path)
    notes = {name.decode(): text.decode() for name, text in table.schema.metadata.items()}
    arrays = {
        kind: table[kind].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
        for kind, shape in json.loads(notes["shapes"]).items()
    }
    return arrays, notes


def _pyarrow(file: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TimesformerError(
            f"{file} needs pyarrow: `pip install pyarrow`, or choose a name that ends in .safetensors or .npz."
        ) from None
    return pyarrow, pyarrow.parquet


def _little_endian(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
