"""Packs videos into shards: a data set of a million small files is slow to list, to copy and to read at random."""

import dataclasses
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, VideoError
from ..support.distributed import announce
from ..support.files import read_json, write_atomically
from ..video.packets import EncodedVideo
from ..video.reading import VideoInfo, probe
from . import storage
from .shards import FORMAT, MANIFEST, VERSION, VERSION_WITH_ENTRIES
from .spans import Span, frames_between, to_json
from .videos import Videos, fingerprint

UNFINISHED = "packing.json"
"""Says what is being packed into a folder, until the manifest takes its place."""


@dataclasses.dataclass(frozen=True)
class Packing:
    """The outcome of a packing.

    Attributes:
        videos: how many videos were packed.
        shards: into how many files.
        left_out: names of the videos that can't be decoded.
    """

    videos: int
    shards: int
    left_out: tuple[str, ...]


def pack(
    videos: Videos, folder: Path, *, shards: int, threads: int = 4, progress: Callable[[int], None] = lambda done: None
) -> Packing:
    """Packs videos into shards. The shards that an earlier, interrupted call finished are kept; the result is the same.

    Videos whose first frame can't be decoded are left out, and listed in the manifest.

    Args:
        videos: the videos to pack.
        folder: where the shards go; made if needed.
        shards: number of files.
        threads: shards that are written at the same time.
        progress: is called with the number of videos that were done since it was called last.

    Raises:
        DataError: the folder holds something else, or no video can be decoded.
    """
    parts = _parts(videos)
    if not 1 <= shards <= len(parts):
        raise DataError(f"{len(parts)} videos can't be packed into {shards} shards.")
    version = VERSION if videos.spans is None and len(parts) == len(videos) else VERSION_WITH_ENTRIES
    plan = {"format": FORMAT, "version": version, "source": videos.fingerprint, "shards": shards}
    _require_own_folder(folder, plan)
    borders = [len(parts) * i // shards for i in range(shards + 1)]
    names = [f"videos-{i:05d}-of-{shards:05d}.array_record" for i in range(shards)]
    stop = threading.Event()

    def finish(i: int) -> dict[str, Any]:
        own = parts[borders[i] : borders[i + 1]]
        summary = _finished(folder, names[i])
        if summary is not None:
            progress(sum(map(len, own)))
            return summary
        return _write_shard(videos, own, folder, names[i], watch)

    def watch(done: int) -> None:
        if stop.is_set():
            raise _StoppedError
        progress(done)

    with ThreadPoolExecutor(threads) as pool:
        try:
            summaries = list(pool.map(finish, range(shards)))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    left_out = [name for summary in summaries for name in summary["left_out"]]
    records = {name: i for i, name in enumerate(name for summary in summaries for name in summary["names"])}
    kept = sorted(set(range(len(videos))) - _named(videos, left_out))
    if not kept:
        raise DataError(f"None of {len(videos)} videos can be decoded; nothing was packed.")
    labels = [videos.label(i) for i in kept]
    packed_names = [videos.name(i) for i in kept]
    manifest = {
        **plan,
        "videos": len(labels),
        "classes": videos.classes,
        **({"ordered": True} if videos.ordered else {}),
        "fingerprint": fingerprint(packed_names, np.array(labels, np.int32), videos.classes),
        "left_out": left_out,
        "shards": [
            {"file": name, "videos": len(summary["names"]), "bytes": summary["bytes"], "sha256": summary["sha256"]}
            for name, summary in zip(names, summaries, strict=True)
        ],
        "labels": labels,
        "names": [videos.file(i) for i in kept],
    }
    if version == VERSION_WITH_ENTRIES:
        manifest["records"] = [records[videos.file(i)] for i in kept]
        manifest["spans"] = [to_json(videos.span(i)) for i in kept]
    with write_atomically(folder / MANIFEST) as file:
        file.write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    for leftover in [folder / UNFINISHED, *(_summary_file(folder, name) for name in names)]:
        leftover.unlink(missing_ok=True)
    return Packing(len(labels), shards, tuple(left_out))


def _parts(videos: Videos) -> list[list[int]]:
    """The numbers of the videos that are the same file, or parts of it: a list of them for each file."""
    files: dict[str, list[int]] = {}
    for index in range(len(videos)):
        files.setdefault(videos.file(index), []).append(index)
    return list(files.values())


def _named(videos: Videos, names: Sequence[str]) -> set[int]:
    """The numbers of the videos with certain names."""
    wanted = set(names)
    return {index for index in range(len(videos)) if wanted and videos.name(index) in wanted}


def _require_own_folder(folder: Path, plan: dict[str, Any]) -> None:
    """Makes the folder, or checks that it holds what an earlier call with the same plan left."""
    if (folder / MANIFEST).exists():
        raise DataError(f"{folder} holds packed videos already; give another folder, or remove it.")
    if (folder / UNFINISHED).exists():
        if read_json(folder / UNFINISHED, DataError) != plan:
            raise DataError(f"{folder} holds the beginning of another packing; give another folder, or remove it.")
    elif folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise DataError(f"{folder} is not empty; give another folder for the packed videos.")
    else:
        with write_atomically(folder / UNFINISHED) as file:
            file.write_text(json.dumps(plan), encoding="utf-8")
    for unfinished in folder.glob(".videos-*"):  # what a killed call was writing
        shutil.rmtree(unfinished, ignore_errors=True)


def _summary_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _finished(folder: Path, name: str) -> dict[str, Any] | None:
    """The summary of a shard that is complete; None if it is not."""
    if not _summary_file(folder, name).exists():
        return None
    summary = read_json(_summary_file(folder, name), DataError)
    file = folder / name
    return summary if file.exists() and file.stat().st_size == summary["bytes"] else None


class _StoppedError(Exception):
    """Another thread failed, or the call was interrupted."""


def _write_shard(
    videos: Videos, parts: Sequence[Sequence[int]], folder: Path, name: str, watch: Callable[[int], None]
) -> dict[str, Any]:
    from array_record.python.array_record_module import ArrayRecordWriter

    names: list[str] = []
    left_out: list[str] = []
    with write_atomically(folder / name) as temporary:
        # One video a group, so that it can be read by itself; they are compressed as they are.
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        for indices in parts:
            watch(len(indices))
            try:
                record, beyond = _record(videos, indices)
            except VideoError as error:
                record, beyond = None, indices
                announce(f"{error}")
            left_out += dict.fromkeys(videos.name(index) for index in beyond)
            if record is not None and len(beyond) < len(indices):
                writer.write(record)
                names.append(videos.file(indices[0]))
        writer.close()
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        summary = {
            "names": names,
            "left_out": left_out,
            "bytes": temporary.stat().st_size,
            "sha256": digest.hexdigest(),
        }
    # A shard counts as complete once its summary is there; it comes last.
    with write_atomically(_summary_file(folder, name)) as file:
        file.write_text(json.dumps(summary), encoding="utf-8")
    return summary


def _record(videos: Videos, indices: Sequence[int]) -> tuple[bytes, list[int]]:
    """Makes the record of a file, a frame of which must decode.

    Args:
        videos: the videos.
        indices: the numbers of the videos that are this file, or parts of it.

    Returns:
        The record, and the numbers of the parts that begin after the end of the file.
    """
    import msgpack

    index = indices[0]
    source = videos.open(index)
    record: dict[str, Any] = {"id": index, "name": videos.file(index), "label": videos.label(index)}
    if isinstance(source, str) and Path(source).is_dir():
        source = storage.pictures(source)
    elif isinstance(source, str):
        try:
            source = EncodedVideo(source, Path(source).read_bytes())
        except OSError as error:
            raise VideoError(f"{source} can't be read: {error.strerror}.") from error
    info = probe(source)
    if isinstance(source, EncodedVideo):
        record["video"] = source.data
    else:
        frames = set(source.series().names)
        record["pictures"] = {name: source.read(name) for name in source.names if name in frames}
    packed: Any = msgpack.packb(record)
    return packed, [index for index in indices if not _begins_within(videos.span(index), info)]


def _begins_within(span: Span | None, info: VideoInfo) -> bool:
    try:
        return span is None or bool(frames_between(span, info.frames, info.fps))
    except VideoError:
        return False
