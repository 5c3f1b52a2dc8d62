"""The two streams that training and evaluation read.

    data = open_data(config)
    batches = TrainingBatches(data.train, config, clip=ClipShape(8, 224, 224, 32), batch_size=64, seed=0, bad_list=path)
    batch = next(batches)

See docs/data.md.
"""

import os
from typing import Any

from ..errors import DataError
from .bad_videos import BadVideos, path_for_process
from .config import ClipShape, DataConfig, Views
from .pipeline import Batches
from .samples import EvaluationSamples, TrainingSamples
from .videos import Videos

_ENDLESS = 2**50


class TrainingBatches(Batches):
    """Endless batches of augmented clips: {"frames": uint8 (b, t, h, w, 3), "labels": int32 (b,), "ids": int64 (b,)}.

    The batch of step k is a function of the settings, the seed and k alone, whatever the numbers of worker processes
    and hosts, so that a run that was stopped goes on with the batches that it would have had.

    Attributes:
        number: number of the next batch, which is the step that it is for.
    """

    def __init__(
        self,
        videos: Videos,
        config: DataConfig,
        *,
        clip: ClipShape,
        batch_size: int,
        seed: int,
        bad_list: str | os.PathLike[str],
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Begins with step 0; starts no worker yet.

        Args:
            videos: the training videos.
            config: how to read and augment them.
            clip: frames and size of the clips.
            batch_size: clips in a step, over all processes.
            seed: seed of the order and of everything random in a clip.
            bad_list: file that videos which can't be decoded are listed in, one a line. With several processes each has
                its own, with its number before the suffix.
            share: which part of each batch to take, and in how many equal parts it is cut (see `batch_share`).

        Raises:
            DataError: the settings make no batches.
        """
        _require_usable(config, clip, batch_size)
        if seed < 0:
            raise DataError(f"Seed {seed} is negative; seeds count from 0.")
        bad_path = path_for_process(bad_list, *share)
        super().__init__(
            TrainingSamples(videos, config, clip, seed, bad_path),
            config,
            batch_size=batch_size,
            total=_ENDLESS,
            share=share,
            sample_bytes=clip.bytes,
        )
        self._videos, self._seed, self._bad = videos, seed, BadVideos(bad_path)

    @property
    def samples_per_epoch(self) -> int:
        """Clips in one pass through the videos."""
        return len(self._videos) * self._config.augmentation.repeats

    @property
    def steps_per_epoch(self) -> float:
        """Batches in one pass through the videos; passes follow each other without a gap, within a batch, too."""
        return self.samples_per_epoch / self._batch_size

    @property
    def bad_videos(self) -> int:
        """How many videos are known to be undecodable."""
        return len(self._bad.names())

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the step, and what tells these batches from others."""
        return {
            "step": self.number,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "repeats": self._config.augmentation.repeats,
            "videos": len(self._videos),
            "fingerprint": self._videos.fingerprint,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from where a state was taken, whatever the numbers of processes and workers were.

        Raises:
            DataError: the state is of another data set, seed or batch size.
        """
        own = self.get_state()
        different = [name for name in own if name != "step" and own[name] != state.get(name)]
        if different:
            details = ", ".join(f"{name} was {state.get(name)} and is {own[name]}" for name in different)
            raise DataError(f"The checkpoint's data are not those given: {details}. Give the same, or start a new run.")
        self.close()
        self.number = int(state["step"])


class EvaluationBatches(Batches):
    """Batches of the views of every video, once and in order.

    A batch is {"frames": uint8 (b, clips * crops, t, h, w, 3), "labels": int32 (b,), "ids": int64 (b,),
    "valid": bool (b,)}. Every process gets the same number of batches, of equal size; "valid" is False (and "ids" -1)
    in the samples that fill up the last, and in those of videos that can't be decoded, whose "ids" say which.

    Attributes:
        number: number of the next batch; may be set before the first is taken.
    """

    def __init__(
        self,
        videos: Videos,
        config: DataConfig,
        *,
        clip: ClipShape,
        batch_size: int,
        views: Views,
        bad_list: str | os.PathLike[str] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Starts no worker yet.

        Args:
            videos: the validation videos.
            config: how to read them.
            clip: frames and size of the clips.
            batch_size: videos in a batch, over all processes.
            views: which views of each video.
            bad_list: file that videos which can't be decoded are listed in, as in `TrainingBatches`.
            share: which part of each batch to take, and in how many equal parts it is cut (see `batch_share`).

        Raises:
            DataError: the settings make no batches.
        """
        bad_path = None if bad_list is None else path_for_process(bad_list, *share)
        super().__init__(
            EvaluationSamples(videos, clip, views, bad_path),
            config,
            batch_size=batch_size,
            total=len(videos),
            share=share,
            sample_bytes=views.clips * views.crops * clip.bytes,
        )

    def __len__(self) -> int:
        """Batches from the first to the last, wherever this began."""
        return self._end


def _require_usable(config: DataConfig, clip: ClipShape, batch_size: int) -> None:
    augmentation = config.augmentation
    problem = None
    if batch_size % augmentation.repeats:
        problem = f"repeats is {augmentation.repeats}, which does not divide the batch of {batch_size}"
    elif augmentation.short_side and not min(clip.height, clip.width) <= augmentation.short_side[0]:
        problem = f"short_side begins at {augmentation.short_side[0]}, below the crop of {clip.height}x{clip.width}"
    if problem:
        raise DataError(f"No training clips can be made: {problem}.")
