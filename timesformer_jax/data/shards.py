"""Reads videos from few large files, which `packing.py` writes: ArrayRecord shards and a manifest.

A shard holds some hundred videos as they are, byte for byte, in the order of the list. Each record is a MessagePack
map with "id" (place in the original list), "name", "label" and "video" (the file's bytes), or "pictures" (a map from
file name to bytes) for a folder of pictures. `manifest.json` holds the number of videos, the class names, labels and
names of the videos, and the shards with their sizes. Where a list names a video several times, or parts of videos, the
video is stored once: the manifest is of version 2 then, and has the number of its record and the span for each entry.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ..errors import DataError, VideoError
from ..support.files import read_json
from ..video.packets import EncodedVideo
from ..video.reading import Pictures
from . import storage
from .spans import Spans, from_json
from .videos import Videos

MANIFEST = "manifest.json"
"""The file that makes a folder one of packed shards."""

FORMAT = "timesformer_jax packed videos"
VERSION, VERSION_WITH_ENTRIES = 1, 2


@dataclass(frozen=True, eq=False)
class PackedVideos(Videos):
    """The videos in a folder of shards; fingerprint and names are those before they were packed.

    Attributes:
        folder: the folder that holds the shards and the manifest.
        shards: file name and number of records of each shard.
        records: the record of each video; None where each has its own, in the same order.
    """

    folder: Path
    shards: tuple[tuple[str, int], ...]
    records: Int64[np.ndarray, " n"] | None = field(default=None, repr=False)

    @classmethod
    def open_folder(cls, folder: str) -> "PackedVideos":
        """Reads the manifest, and checks that the shards are there.

        Raises:
            DataError: the manifest can't be used, or a shard is missing or has another size.
        """
        if storage.is_url(folder):
            raise DataError(f"{folder}: packed shards are read from a mounted file system only (gcsfuse mounts gs://).")
        path = Path(folder) / MANIFEST
        values = read_json(path, DataError)
        version = values.get("version")
        if values.get("format") != FORMAT or version not in (VERSION, VERSION_WITH_ENTRIES):
            raise DataError(f"{path} is no manifest of packed videos of version {VERSION} or {VERSION_WITH_ENTRIES}.")
        try:
            shards = [(str(row["file"]), int(row["videos"]), int(row["bytes"])) for row in values["shards"]]
            labels = np.array(values["labels"], np.int32)
            names = np.array([str(name).encode() for name in values["names"]])
            classes = tuple(map(str, values["classes"]))
            fingerprint, ordered = str(values["fingerprint"]), bool(values.get("ordered"))
            records = spans = None
            if version == VERSION_WITH_ENTRIES:
                records = np.array(values["records"], np.int64)
                spans = Spans.of(map(from_json, values["spans"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error!r}); pack the videos again.") from None
        for name, _, size in shards:
            file = Path(folder) / name
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                what = "is missing" if found is None else f"has {found} bytes instead of {size}"
                raise DataError(f"{file} {what}; copy it again, or pack the videos again.")
        stored = sum(count for _, count, _ in shards)
        numbers = np.arange(len(labels)) if records is None else records
        if not len(labels) == len(names) == len(numbers) > 0 or set(numbers.tolist()) != set(range(stored)):
            raise DataError(f"{path} is damaged: {len(labels)} labels for its shards; pack the videos again.")
        counts = tuple((name, count) for name, count, _ in shards)
        return cls(*(names, labels, classes, fingerprint, Path(folder), counts, records), ordered=ordered, spans=spans)

    def open(self, index: int) -> EncodedVideo | Pictures:
        """Opens a video for `read_by_rule`."""
        record = self._record(index)
        if "pictures" in record:
            pictures: dict[str, bytes] = record["pictures"]
            return Pictures(record["name"], tuple(pictures), pictures.__getitem__)
        return EncodedVideo(record["name"], record["video"])

    def _record(self, index: int) -> dict[str, Any]:
        import msgpack

        try:
            return msgpack.unpackb(self._records[index if self.records is None else int(self.records[index])])
        except (RuntimeError, ValueError, OSError) as error:
            raise VideoError(f"Video {index} in {self.folder} can't be read: the shard is damaged ({error}).") from None

    @cached_property
    def _records(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        # With the records' numbers known, no shard is opened before one of its videos is read.
        files = [f"{self.folder / name}[0:{count}]" for name, count in self.shards if count]
        return ArrayRecordDataSource(files, reader_options={"max_parallelism": "0"})
