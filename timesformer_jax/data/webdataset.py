"""Reads the shards of WebDataset in place: tar files that hold each video beside the file of its label.

The members of a sample follow each other, and have a key in common: their path up to the first dot of the file name
(https://github.com/webdataset/webdataset). An index of where each video lies is made from the members' headers.
"""

import json
import posixpath
import re
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64

from ..errors import DataError
from ..support.distributed import announce, announce_progress
from ..video.packets import EncodedVideo
from . import storage
from .classes import Classes, number_labels
from .files import encode_names
from .lists.entry import VIDEO_SUFFIXES, Entry
from .videos import Videos, fingerprint

_LABEL_PARTS = ("cls", "json", "txt")
"""Members that may tell the class of a sample; of several the first."""

_LABEL_KEYS = ("label", "class", "cls", "category", "action", "label_name", "class_name")
"""Where JSON tells it."""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass(frozen=True, eq=False)
class TarVideos(Videos):
    """The videos in tar files; their names are shard, key and suffix.

    Attributes:
        shards: paths or URLs of the tar files.
        places: shard, first byte and number of bytes of each video.
    """

    shards: tuple[str, ...]
    places: Int64[np.ndarray, "n 3"] = field(repr=False)

    def open(self, index: int) -> EncodedVideo:
        """Opens a video for `read_by_rule`."""
        shard, start, size = self.places[index].tolist()
        return EncodedVideo(self.file(index), storage.read_range(self.shards[shard], start, size))


def find_tars(source: str) -> tuple[str, ...]:
    """The tar files that a path, a pattern or a folder names; none where it is something else.

    Raises:
        DataError: one of a pattern is missing.
    """
    if storage.is_pattern(source) and ".tar" in source:
        return storage.expand(source)
    if re.search(r"\.(tar|tgz)(\.(gz|bz2|xz|zst))?$", source) and not storage.is_folder(source):
        if not storage.exists(source):
            raise DataError(f"{source} does not exist.")
        return (source,)
    return storage.files_in(source, ".tar")


def open_tars(shards: Sequence[str], classes: Classes | None, source: str) -> TarVideos:
    """Makes an index of tar files.

    Args:
        shards: the tar files.
        classes: what the labels mean; when None the names among them, sorted, or the numbers from 0 on.
        source: what messages call them.

    Raises:
        DataError: a tar file is damaged or compressed, or a video has no label or an unknown one.
    """
    names = [posixpath.basename(shard) for shard in shards]
    names = names if len(set(names)) == len(names) else list(shards)
    with announce_progress(f"reading the index of {len(shards)} tar files"), ThreadPoolExecutor(8) as pool:
        found = [sample for samples in pool.map(_samples, shards, names) for sample in samples]
    if not found:
        raise DataError(f"{source} holds no videos: samples such as x.mp4 with x.cls are expected.")
    kinds = {sample.labelled_by for sample in found}
    if len(kinds) > 1:
        odd = next(sample for sample in found if sample.labelled_by != found[0].labelled_by)
        raise DataError(
            f"{source}: the label of {odd.name} is in its .{odd.labelled_by}, that of {found[0].name} in its "
            f".{found[0].labelled_by}; give all samples the same kind."
        )
    entries = [Entry(sample.name, sample.label, f"sample {sample.name}") for sample in found]
    labels, classes = number_labels(entries, classes, source)
    if kinds == {"txt"} and not classes.ordered and len(classes.names) > max(20, len(found) // 2):
        raise DataError(
            f"{source}: its {len(found)} videos have {len(classes.names)} different texts in their .txt files, which "
            "look like descriptions, not classes; add .cls files, or give --data.classes with the names of the classes."
        )
    numbers = {name: number for number, name in enumerate(names)}
    places = np.array([[numbers[sample.shard], sample.start, sample.size] for sample in found], np.int64)
    paths = [sample.name for sample in found]
    return TarVideos(
        encode_names(paths, source),
        labels,
        classes.names,
        fingerprint(paths, labels, classes.names),
        tuple(shards),
        places,
        ordered=classes.ordered,
    )


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    start: int
    size: int
    contents: bytes | None  # of those that may hold a label


@dataclass(frozen=True, slots=True)
class _Sample:
    shard: str
    name: str
    start: int
    size: int
    label: str
    labelled_by: str


def _samples(location: str, shard: str) -> list[_Sample]:
    """Lists the samples of a tar file that hold a video."""
    with storage.open_file(location) as file:
        kind = _COMPRESSED.get(file.read(2))
        if kind:
            raise DataError(f"{location} is compressed ({kind}), so nothing in it can be read in place; decompress it.")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                samples = _group(tar, location)
                _require_end(tar, file, location)
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{location} is no tar file, or damaged ({error}); copy it again.") from None
        except OSError as error:
            raise DataError(f"{location} can't be read: {error.strerror or error}.") from None
    videos = {key: suffix for key, parts in samples.items() if (suffix := _video_part(key, parts, location))}
    without = [key for key in samples if key not in videos]
    if without:
        announce(f"{location}: {len(without)} samples hold no video and are left out, {without[0]} for one.")
    return [_sample(shard, key, samples[key], suffix, location) for key, suffix in videos.items()]


def _group(tar: tarfile.TarFile, location: str) -> dict[str, dict[str, _Member]]:
    """The members of each sample by key and suffix. Hidden files, and those without a dot, belong to none."""
    samples: dict[str, dict[str, _Member]] = {}
    for info in tar:
        match = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]*)", info.name)
        if not match or not info.isreg():
            continue
        key, suffix = match[1].removeprefix("./"), match[2].lower()
        parts = samples.setdefault(key, {})
        if suffix in parts:
            raise DataError(f"{location} holds {info.name} twice; each sample needs a key of its own.")
        if info.issparse():
            raise DataError(f"{location}: {info.name} is stored as a sparse file, which can't be read in place.")
        file: Any = tar.extractfile(info) if suffix in _LABEL_PARTS else None
        parts[suffix] = _Member(info.name, info.offset_data, info.size, file and file.read())
    return samples


def _require_end(tar: tarfile.TarFile, file: Any, location: str) -> None:
    """Checks that the members were listed to the end: tarfile takes a damaged header for it."""
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise DataError(f"{location} is damaged after {len(tar.getmembers())} members; copy it again.")
    if not block:
        announce(f"{location} has no mark of its end: it may have been cut short between two members.")


def _video_part(key: str, parts: Mapping[str, _Member], location: str) -> str | None:
    """The suffix of the video of a sample: x.mp4 before x.left.mp4; None if it holds none."""
    videos = [suffix for suffix in parts if storage.suffix(f"x.{suffix}") in VIDEO_SUFFIXES]
    videos = [suffix for suffix in videos if "." not in suffix] or videos
    if len(videos) > 1:
        raise DataError(f"{location}: sample {key} holds several videos ({', '.join(videos)}); one is expected.")
    return videos[0] if videos else None


def _sample(shard: str, key: str, parts: Mapping[str, _Member], suffix: str, location: str) -> _Sample:
    video = parts[suffix]
    for part in _LABEL_PARTS:
        if part in parts:
            label = _label(part, parts[part].contents or b"", f"{location}: {parts[part].name}")
            if label is not None:
                return _Sample(shard, f"{shard}/{key}.{suffix}", video.start, video.size, label, part)
    others = ", ".join(other for other in parts if other != suffix) or "nothing"
    raise DataError(
        f"{location}: sample {key} has no label; .cls, .txt or .json with {_LABEL_KEYS[0]!r} is expected beside the "
        f"video (there is: {others})."
    )


def _label(part: str, contents: bytes, where: str) -> str | None:
    """Reads a label; None if JSON does not tell one."""
    try:
        text = contents.decode("utf-8-sig").strip()
        value: Any = json.loads(text) if part == "json" else text
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise DataError(f"{where} is no {'JSON' if part == 'json' else 'text'}, so it tells no label.") from None
    if isinstance(value, dict):
        value = next((value[key] for key in _LABEL_KEYS if value.get(key) is not None), None)
        if value is None:
            return None
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "" or "\n" in str(value):
        raise DataError(f"{where} holds {str(value)[:60]!r} where one class name or number is expected.")
    return str(value)
