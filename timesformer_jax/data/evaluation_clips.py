"""The stream of evaluation batches: every video once."""

import os
from collections.abc import Iterator
from typing import Literal

from ..errors import DataError
from .bad_videos import path_for_process
from .config import ClipShape, DataConfig
from .pipeline import Batch, Batches, LocalRows, require_parts
from .samples import EvaluationSamples
from .sources import Videos


class EvaluationClips(Iterator[Batch]):
    """Batches of all views of some videos; see `evaluation_clips`.

    Attributes:
        videos: the data set.
        batch: number of the next batch; may be set before the first is taken.
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
        self._samples = EvaluationSamples(videos, clip, clips, crops, position, bad_path)
        self._share = batch_size, process_index, process_count
        self._config = config
        self._batches: Batches | None = None

    def __len__(self) -> int:
        """Batches from the first to the last, wherever this began."""
        return self._total

    def __next__(self) -> Batch:
        """The next batch of this process: {"frames", "labels", "ids", "valid"}."""
        if self._batches is None:
            if self.batch >= self._total:
                raise StopIteration
            rows = LocalRows(self._samples, self.batch, self._total - self.batch, *self._share)
            self._batches = Batches(rows, self._config)
        batch = next(self._batches)
        self.batch += 1
        return batch

    def close(self) -> None:
        """End the worker processes."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None
