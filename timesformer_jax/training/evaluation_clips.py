"""The stream of evaluation batches: every video once."""

import os
from collections.abc import Iterator
from typing import Any, Literal

from ..errors import DataError
from .bad_videos import path_for_process
from .data import ClipShape, DataConfig
from .pipeline import Batch, LocalRows, batches, require_parts
from .samples import EvaluationSamples
from .sources import Videos


class EvaluationClips(Iterator[Batch]):
    """Batches of all views of some videos; see `evaluation_clips`.

    Attributes:
        videos: the data set.
        batch: number of the next batch.
    """

    def __init__(
        self,
        config: DataConfig,
        videos: Videos,
        *,
        clip: ClipShape,
        batch_size: int,
        clips: int = 1,
        crops: int = 3,
        position: Literal["first", "middle"] = "first",
        bad_list: str | os.PathLike[str] | None = None,
        process_index: int = 0,
        process_count: int = 1,
        start: int = 0,
    ) -> None:
        """As `evaluation_clips`."""
        require_parts(batch_size, process_index, process_count)
        if clips < 1 or crops < 1:
            raise DataError(f"{clips} clips with {crops} crops give no views: ask for at least one of each.")
        self.videos, self.batch = videos, start
        self._total = -(-len(videos) // batch_size)
        bad_path = None if bad_list is None else path_for_process(bad_list, process_index, process_count)
        samples = EvaluationSamples(videos, clip, clips, crops, position, bad_path)
        left = max(self._total - start, 0)
        self._rows = LocalRows(samples, start, left, batch_size, process_index, process_count)
        self._config = config
        self._batches: Any = None

    def __len__(self) -> int:
        """Batches from the first to the last, wherever this began."""
        return self._total

    def __next__(self) -> Batch:
        """The next batch of this process: {"frames", "labels", "ids", "valid"}."""
        if self._batches is None:
            if not len(self._rows):
                raise StopIteration
            self._batches = batches(self._rows, self._config)
        batch = next(self._batches)
        self.batch += 1
        return batch

    def close(self) -> None:
        """End the worker processes."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None
