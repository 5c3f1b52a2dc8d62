"""The stream of training batches, which can be put back to any step."""

import os
from collections.abc import Iterator
from typing import Any

from ..errors import DataError
from .bad_videos import BadVideos, path_for_process
from .config import ClipShape, DataConfig
from .pipeline import Batch, Batches, LocalRows, require_parts
from .samples import TrainingSamples
from .sources import Videos

_ENDLESS = 2**40


class TrainingBatches(Iterator[Batch]):
    """Endless batches of augmented clips; see `training_batches`.

    Attributes:
        videos: the data set.
        step: of the next batch.
    """

    def __init__(
        self,
        config: DataConfig,
        videos: Videos,
        *,
        clip: ClipShape,
        batch_size: int,
        seed: int,
        bad_list: str | os.PathLike[str],
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """As `training_batches`."""
        require_parts(batch_size, process_index, process_count)
        _require_sense(config, clip, batch_size)
        if seed < 0 or start_step < 0:
            raise DataError(f"Seed {seed} or step {start_step} is negative; they count from 0.")
        self.videos, self.step = videos, start_step
        self._config, self._batch_size, self._seed = config, batch_size, seed
        self._process_index, self._process_count = process_index, process_count
        bad_path = path_for_process(bad_list, process_index, process_count)
        self._bad = BadVideos(bad_path)
        self._samples = TrainingSamples(videos, clip, config.augmentation, seed, bad_path, config.max_bad_fraction)
        self._batches: Batches | None = None

    @property
    def samples_per_epoch(self) -> int:
        """Clips in one pass through the videos."""
        return len(self.videos) * self._config.augmentation.repeats

    @property
    def steps_per_epoch(self) -> float:
        """Batches in one pass through the videos; passes follow each other without a gap, within a batch, too."""
        return self.samples_per_epoch / self._batch_size

    @property
    def bad_videos(self) -> int:
        """How many videos are known to be undecodable."""
        return len(self._bad.names())

    def __next__(self) -> Batch:
        """The batch of this process: {"frames", "labels", "ids"}.

        Raises:
            DataError: too many videos can't be decoded.
        """
        if self._batches is None:
            rows = LocalRows(
                self._samples, self.step, _ENDLESS, self._batch_size, self._process_index, self._process_count
            )
            self._batches = Batches(rows, self._config)
        batch = next(self._batches)
        self.step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the step, and what makes sure that it is met by the same data."""
        return {
            "step": self.step,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "repeats": self._config.augmentation.repeats,
            "videos": len(self.videos),
            "fingerprint": self.videos.fingerprint,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from where a state was taken, whatever the numbers of processes and workers were.

        Raises:
            DataError: the state is of another data set, seed or batch size.
        """
        own = self.get_state()
        different = [name for name in own if name != "step" and own[name] != state.get(name)]
        if different:
            details = ", ".join(f"{name} was {state.get(name)} and is {own[name]}" for name in different)
            raise DataError(f"The checkpoint's data are not those given: {details}. Give the same, or start a new run.")
        self.close()
        self.step = int(state["step"])

    def close(self) -> None:
        """End the worker processes. The next batch would start them anew."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def _require_sense(config: DataConfig, clip: ClipShape, batch_size: int) -> None:
    augmentation = config.augmentation
    problem = None
    if augmentation.repeats < 1 or batch_size % augmentation.repeats:
        problem = f"repeats is {augmentation.repeats}, which does not divide the batch of {batch_size}"
    elif augmentation.short_side and not min(clip.height, clip.width) <= augmentation.short_side[0]:
        problem = f"short_side begins at {augmentation.short_side[0]}, below the crop of {clip.height}x{clip.width}"
    elif augmentation.short_side and augmentation.short_side[0] > augmentation.short_side[1]:
        problem = f"short_side is {augmentation.short_side}; the lower length comes first"
    elif not 0 <= config.max_bad_fraction <= 1:
        problem = f"max_bad_fraction is {config.max_bad_fraction}, no share from 0 to 1"
    for name in ("flip", "erasing", "mix_probability", "label_smoothing"):
        if not 0 <= getattr(augmentation, name) <= 1:
            problem = f"{name} is {getattr(augmentation, name)}, no share from 0 to 1"
    for name in ("mixup", "cutmix", "rand_augment_layers", "rand_augment_magnitude", "rand_augment_deviation"):
        if getattr(augmentation, name) < 0:
            problem = f"{name} is {getattr(augmentation, name)}, which is negative"
    for name, least in (("workers", 0), ("prefetch", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            problem = f"{name} is {value}; it must be {least} or more"
    if problem:
        raise DataError(f"No training clips can be made: {problem}.")
