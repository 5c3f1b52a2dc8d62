"""Packs videos into shards: a data set of a million small files is slow to list, to copy and to read at random."""

import dataclasses
import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, VideoError
from ..support.files import read_json, write_atomically
from ..video.packets import EncodedVideo
from ..video.reading import probe
from . import storage
from .shards import FORMAT, MANIFEST, VERSION
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
    if not 1 <= shards <= len(videos):
        raise DataError(f"{len(videos)} videos can't be packed into {shards} shards.")
    plan = {"format": FORMAT, "version": VERSION, "source": videos.fingerprint, "shards": shards}
    _require_own_folder(folder, plan)
    borders = [len(videos) * i // shards for i in range(shards + 1)]
    names = [f"videos-{i:05d}-of-{shards:05d}.array_record" for i in range(shards)]
    stop = threading.Event()

    def finish(i: int) -> dict[str, Any]:
        indices = range(*borders[i : i + 2])
        summary = _finished(folder, names[i])
        if summary is not None:
            progress(len(indices))
            return summary
        return _write_shard(videos, indices, folder, names[i], watch)

    def watch() -> None:
        if stop.is_set():
            raise _StoppedError
        progress(1)

    with ThreadPoolExecutor(threads) as pool:
        try:
            summaries = list(pool.map(finish, range(shards)))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    labels = [label for summary in summaries for label in summary["labels"]]
    packed_names = [name for summary in summaries for name in summary["names"]]
    left_out = [name for summary in summaries for name in summary["left_out"]]
    if not labels:
        raise DataError(f"None of {len(videos)} videos can be decoded; nothing was packed.")
    manifest = {
        **plan,
        "videos": len(labels),
        "classes": videos.classes,
        "fingerprint": fingerprint(packed_names, np.array(labels, np.int32), videos.classes),
        "left_out": left_out,
        "shards": [
            {"file": name, "videos": len(summary["labels"]), "bytes": summary["bytes"], "sha256": summary["sha256"]}
            for name, summary in zip(names, summaries, strict=True)
        ],
        "labels": labels,
        "names": packed_names,
    }
    with write_atomically(folder / MANIFEST) as file:
        file.write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    for leftover in [folder / UNFINISHED, *(_summary_file(folder, name) for name in names)]:
        leftover.unlink(missing_ok=True)
    return Packing(len(labels), shards, tuple(left_out))


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


def _write_shard(videos: Videos, indices: range, folder: Path, name: str, watch: Callable[[], None]) -> dict[str, Any]:
    from array_record.python.array_record_module import ArrayRecordWriter

    labels: list[int] = []
    names: list[str] = []
    left_out: list[str] = []
    with write_atomically(folder / name) as temporary:
        # One video a group, so that it can be read by itself; they are compressed as they are.
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        for index in indices:
            watch()
            try:
                record = _record(videos, index)
            except VideoError:
                left_out.append(videos.name(index))
                continue
            writer.write(record)
            labels.append(videos.label(index))
            names.append(videos.name(index))
        writer.close()
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        summary = {
            "labels": labels,
            "names": names,
            "left_out": left_out,
            "bytes": temporary.stat().st_size,
            "sha256": digest.hexdigest(),
        }
    # A shard counts as complete once its summary is there; it comes last.
    with write_atomically(_summary_file(folder, name)) as file:
        file.write_text(json.dumps(summary), encoding="utf-8")
    return summary


def _record(videos: Videos, index: int) -> bytes:
    """Makes the record of a video, a frame of which must decode."""
    import msgpack

    source = videos.open(index)
    record: dict[str, Any] = {"id": index, "name": videos.name(index), "label": videos.label(index)}
    if isinstance(source, str) and Path(source).is_dir():
        source = storage.pictures(source)
    elif isinstance(source, str):
        try:
            source = EncodedVideo(source, Path(source).read_bytes())
        except OSError as error:
            raise VideoError(f"{source} can't be read: {error.strerror}.") from error
    probe(source)
    if isinstance(source, EncodedVideo):
        record["video"] = source.data
    else:
        record["pictures"] = {name: source.read(name) for name in source.names}
    packed: Any = msgpack.packb(record)
    return packed
