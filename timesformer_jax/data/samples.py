"""What the clip of a given number is: plain functions of the settings, the seed and the number.

Grain calls these from its worker processes, in any order.
"""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import DataError, VideoError
from .augmentation import change_appearance
from .bad_videos import BadVideos, require_few
from .clips import UNIFORM_DRAWS, cut, random_window, read_clips, view_windows
from .config import Augmentation, ClipShape
from .sources import Videos

Row = dict[str, Any]
"""One row of a batch: "frames", "labels", "ids", and "valid" in evaluation."""

_MOST_ATTEMPTS = 1000

_ORDER, _CLIP, _REPLACEMENT = 0, 1, 2
"""What a random stream is for: no two uses share one."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSamples:
    """Endless augmented clips: number n is the same however many processes share the work.

    Every pass through the videos is in a new random order. A video stands `repeats` times in a row, augmented anew each
    time. One that can't be decoded is listed, and another, which depends on nothing but its place, stands in for it.

    Attributes:
        videos: the data set.
        clip: frames and size of the clips.
        augmentation: of the clips.
        seed: of the order and of everything random in a clip.
        bad_list: file that lists the videos which can't be decoded.
        max_bad_fraction: share of the videos that may be bad.
    """

    videos: Videos
    clip: ClipShape
    augmentation: Augmentation
    seed: int
    bad_list: Path
    max_bad_fraction: float

    def __getitem__(self, number: int) -> Row:
        place = number // self.augmentation.repeats
        for attempt in range(_MOST_ATTEMPTS):
            index = self.video_at(place, attempt)
            if index in self._known_bad:
                continue
            rng = np.random.default_rng([self.seed, _CLIP, number, attempt])
            try:
                frames = self._clip(index, rng)
            except VideoError as error:
                self._note_bad(index, place, error)
                continue
            return {"frames": frames, "labels": np.int32(self.videos.label(index)), "ids": np.int64(index)}
        raise DataError(
            f"{len(self._known_bad)} videos were tried in a row and none could be decoded; they are listed in "
            f"{self.bad_list}."
        )

    def video_at(self, place: int, attempt: int = 0) -> int:
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

    def _clip(self, index: int, rng: np.random.Generator) -> Any:
        positions, draws = rng.random(self.clip.num_frames), rng.random(UNIFORM_DRAWS)
        frames = read_clips(self.videos.open(index), self.clip, positions)
        _, height, width, _ = frames.shape
        window = random_window(height, width, self.clip, self.augmentation, draws)
        return change_appearance(cut(frames, window, self.clip.height, self.clip.width), self.augmentation, rng)

    def _note_bad(self, index: int, place: int, error: VideoError) -> None:
        bad = BadVideos(self.bad_list).add(self.videos.name(index), str(error))
        self._known_bad.add(index)
        total = len(self.videos)
        # Stand-ins were tried besides, and other workers may be ahead.
        seen = min(place + 1 + len(self._known_bad) + 64, total)
        require_few(bad, seen, total, self.max_bad_fraction, self.bad_list)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationSamples:
    """The views of each video, once and in order; numbers beyond the last give empty rows.

    Attributes:
        videos: the data set.
        clip: frames and size of the clips.
        clips: of each video.
        crops: of each clip.
        position: where a single clip lies.
        bad_list: file that lists the videos which can't be decoded.
    """

    videos: Videos
    clip: ClipShape
    clips: int
    crops: int
    position: Literal["first", "middle"]
    bad_list: Path | None

    def __getitem__(self, number: int) -> Row:
        views = self.clips * self.crops
        shape = (views, self.clip.num_frames, self.clip.height, self.clip.width, 3)
        row = {
            "frames": np.zeros(shape, np.uint8),
            "labels": np.int32(-1),
            "ids": np.int64(-1),
            "valid": np.bool_(False),
        }
        if number >= len(self.videos):
            return row
        row |= {"labels": np.int32(self.videos.label(number)), "ids": np.int64(number)}
        try:
            return row | {"frames": self.views(number), "valid": np.bool_(True)}
        except VideoError as error:
            if self.bad_list is not None:
                BadVideos(self.bad_list).add(self.videos.name(number), str(error))
            return row

    def views(self, index: int) -> Any:
        """(clips * crops, t, h, w, 3): each clip's crops in turn."""
        frames = read_clips(self.videos.open(index), self.clip, self._positions())
        height, width = frames.shape[2:4]
        windows = view_windows(height, width, self.clip, self.crops)
        crops = np.stack([cut(frames, window, self.clip.height, self.clip.width) for window in windows], axis=1)
        return crops.reshape(-1, *crops.shape[2:])

    def _positions(self) -> Any:
        # In segments the first frame of each would leave out what follows it: there the middle is meant.
        middle = self.position == "middle" or self.clip.sampling_rate == "segments"
        positions = (np.arange(self.clips) + 0.5 * middle) / self.clips
        return np.tile(positions[:, None], (1, self.clip.num_frames))
