"""What the sample of a given number is: a plain function of the settings, the seed and the number.

Grain calls these from its worker processes, in any order.
"""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from ..errors import DataError, VideoError
from .augmentation import augment_clip
from .bad_videos import BadVideos, require_few
from .clips import UNIFORM_DRAWS, crop_and_resize, random_crop, read_clips, uniform_crops
from .config import ClipShape, DataConfig, Views
from .videos import Videos

Sample = dict[str, Any]
"""What a batch is stacked of: "frames", "labels", "ids", and "valid" in evaluation."""

_MOST_ATTEMPTS = 1000

_ORDER, _CLIP, _REPLACEMENT = 0, 1, 2
"""What a random stream is for: no two uses share one."""


class Samples(Protocol):
    """Samples by number, from 0 on."""

    def __getitem__(self, number: int) -> Sample: ...


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSamples:
    """Endless augmented clips: number n is the same however many processes share the work.

    Every pass through the videos is in a new random order. A video stands `repeats` times in a row, augmented anew each
    time. One that can't be decoded is listed, and another, which depends on nothing but its place, stands in for it.

    Attributes:
        videos: the training videos.
        config: its `augmentation` and `max_bad_fraction` are used.
        clip: frames and size of the clips.
        seed: seed of the order and of everything random in a clip.
        bad_list: file that lists the videos which can't be decoded.
    """

    videos: Videos
    config: DataConfig
    clip: ClipShape
    seed: int
    bad_list: Path

    def __getitem__(self, number: int) -> Sample:
        place = number // self.config.augmentation.repeats
        for attempt in range(_MOST_ATTEMPTS):
            index = self._video_at(place, attempt)
            if index in self._known_bad:
                continue
            rng = np.random.default_rng([self.seed, _CLIP, number, attempt])
            try:
                frames = self._augmented_clip(index, rng)
            except VideoError as error:
                self._note_bad(index, place, error)
                continue
            return {"frames": frames, "labels": np.int32(self.videos.label(index)), "ids": np.int64(index)}
        raise DataError(
            f"{len(self._known_bad)} videos were tried in a row and none could be decoded; they are listed in "
            f"{self.bad_list}."
        )

    def _video_at(self, place: int, attempt: int) -> int:
        """Which video stands at a place of the endless order; after a failed attempt, which stands in for it."""
        if attempt:
            return int(np.random.default_rng([self.seed, _REPLACEMENT, place, attempt]).integers(len(self.videos)))
        return int(self._order[place])

    @cached_property
    def _order(self) -> Any:
        import grain

        seed = int(np.random.SeedSequence([self.seed, _ORDER]).generate_state(1)[0])
        return grain.MapDataset.range(len(self.videos)).shuffle(seed=seed)

    @cached_property
    def _known_bad(self) -> set[int]:
        return set()

    @cached_property
    def _different(self) -> int:
        """How many different videos, or parts of them, there are; a bad one is listed once, however often it stands."""
        return len({self.videos.name(index) for index in range(len(self.videos))})

    def _augmented_clip(self, index: int, rng: np.random.Generator) -> UInt8[np.ndarray, "t h w 3"]:
        augmentation = self.config.augmentation
        positions, draws = rng.random(self.clip.num_frames), rng.random(UNIFORM_DRAWS)
        frames = read_clips(self.videos.open(index), self.clip, positions, self.videos.span(index))
        _, height, width, _ = frames.shape
        box = random_crop(height, width, self.clip, augmentation, draws)
        return augment_clip(crop_and_resize(frames, box, self.clip.height, self.clip.width), augmentation, rng)

    def _note_bad(self, index: int, place: int, error: VideoError) -> None:
        bad = BadVideos(self.bad_list).add(self.videos.name(index), str(error))
        self._known_bad.add(index)
        total = self._different
        # Stand-ins were tried besides, and other workers may have gone on to later places.
        seen = min(place + 1 + len(self._known_bad) + 64, total)
        require_few(bad, seen, total, self.config.max_bad_fraction, self.bad_list)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationSamples:
    """The views of each video, once and in order; samples with numbers beyond the last video are empty.

    Attributes:
        videos: the validation videos.
        clip: frames and size of the clips.
        views: which views of each video.
        bad_list: file that lists the videos which can't be decoded.
    """

    videos: Videos
    clip: ClipShape
    views: Views
    bad_list: Path | None

    def __getitem__(self, number: int) -> Sample:
        shape = (self.views.clips * self.views.crops, self.clip.num_frames, self.clip.height, self.clip.width, 3)
        sample = {
            "frames": np.zeros(shape, np.uint8),
            "labels": np.int32(-1),
            "ids": np.int64(-1),
            "valid": np.bool_(False),
        }
        if number >= len(self.videos):
            return sample
        sample |= {"labels": np.int32(self.videos.label(number)), "ids": np.int64(number)}
        try:
            return sample | {"frames": self._read_views(number), "valid": np.bool_(True)}
        except VideoError as error:
            if self.bad_list is not None:
                BadVideos(self.bad_list).add(self.videos.name(number), str(error))
            return sample

    def _read_views(self, index: int) -> UInt8[np.ndarray, "views t h w 3"]:
        """Reads all views of a video: the crops of the first clip, then those of the next."""
        frames = read_clips(self.videos.open(index), self.clip, self._positions(), self.videos.span(index))
        height, width = frames.shape[2:4]
        boxes = uniform_crops(height, width, self.clip, self.views.crops)
        crops = np.stack([crop_and_resize(frames, box, self.clip.height, self.clip.width) for box in boxes], axis=1)
        return crops.reshape(-1, *crops.shape[2:])

    def _positions(self) -> Float[np.ndarray, "clips t"]:
        # In segments the first frame of each would leave out what follows it: there the middle is meant.
        middle = self.views.position == "middle" or self.clip.sampling_rate == "segments"
        positions = (np.arange(self.views.clips) + 0.5 * middle) / self.views.clips
        return np.tile(positions[:, None], (1, self.clip.num_frames))
