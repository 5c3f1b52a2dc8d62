"""Where the windows over a long video begin: plain arithmetic, like sampling.py."""

import dataclasses

import numpy as np
from jaxtyping import Int64

from ..errors import VideoError
from .sampling import REFERENCE_FPS, clip_indices


@dataclasses.dataclass(frozen=True)
class Windows:
    """The rule by which windows are laid over a video.

    Attributes:
        num_frames: of a window.
        sampling_rate: as in `clip_indices`: frames from one to the next in a video of 30 frames a second.
        overlap: share of a window that the next one covers again, at least 0 and below 1.
    """

    num_frames: int
    sampling_rate: float
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise VideoError(f"overlap is {self.overlap}: it is a share, at least 0 and below 1.")
        if not 0 < self.sampling_rate < float("inf"):
            raise VideoError("a window must last for some time.")

    def span(self, fps: float | None) -> float:
        """Source frames of a window."""
        return self.sampling_rate * self.num_frames / REFERENCE_FPS * (fps or REFERENCE_FPS)

    def starts(self, total: int, fps: float | None) -> Int64[np.ndarray, "w"]:
        """The first frame of each window; the last window is moved back so that it ends with the video."""
        span = self.span(fps)
        room = max(total - span, 0.0)
        stride = max(span * (1 - self.overlap), 1.0)
        starts = np.arange(0, room + 1e-6, stride).astype(np.int64)
        last = int(room)
        return starts if starts[-1] >= last else np.append(starts, last)

    def indices(self, total: int, fps: float | None) -> Int64[np.ndarray, "w t"]:
        """The frames of each window: `clip_indices` from its start."""
        rows = [
            clip_indices(total, fps, self.num_frames, self.sampling_rate, int(start))
            for start in self.starts(total, fps)
        ]
        return np.stack(rows)

    def seconds(self, total: int, fps: float | None) -> list[tuple[float, float]]:
        """Beginning and end of each window; pictures and arrays count as 30 frames a second."""
        rate, span = fps or REFERENCE_FPS, self.span(fps)
        return [(start / rate, min(start + span, total) / rate) for start in self.starts(total, fps).tolist()]


def spread_clips(
    total: int, fps: float | None, num_frames: int, sampling_rate: float, clips: int
) -> Int64[np.ndarray, "clips t"]:
    """Frames of several clips spread evenly over a video, from its beginning to its end; one is the middle clip."""
    if clips == 1:
        return clip_indices(total, fps, num_frames, sampling_rate)[None]
    room = max(total - Windows(num_frames, sampling_rate).span(fps), 0.0)
    starts = np.linspace(0, room, clips).astype(np.int64)
    return np.stack([clip_indices(total, fps, num_frames, sampling_rate, int(start)) for start in starts])
