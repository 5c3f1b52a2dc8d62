"""Which frames of a video make a clip, several clips or sliding windows: plain arithmetic on frame indices.

Indices count frames in presentation order, from 0. All rules are pure functions of the frame count, so that
they can be tried, plotted and tested without a video. `read_frames` takes what they return.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from ..errors import VideoError

REFERENCE_FPS = 30.0
"""Sampling rates count frames at this rate, as the original code base does (its `TARGET_FPS`)."""


def evenly_spread_indices(total: int, num_frames: int) -> Int64[np.ndarray, "t"]:
    """Frames spread over a whole video: the middle of each of `num_frames` equal segments.

    The rule of the original's Something-Something V2 test set (`datasets/ssv2.py`): the borders of the segments
    are `i * (total - 1) / num_frames` rounded to even, the middle is rounded down. A video shorter than the clip
    gives all its frames in order and then repeats the last.

    Args:
        total: frames in the video.
        num_frames: frames in the clip.

    Returns:
        Ascending frame indices in [0, total).

    Raises:
        VideoError: if either number is below 1.
    """
    _require_frames(total, num_frames)
    if total < num_frames:
        return np.minimum(np.arange(num_frames), total - 1)
    borders = np.round((total - 1) / num_frames * np.arange(num_frames + 1)).astype(np.int64)
    return (borders[:-1] + borders[1:]) // 2


def spread_indices(total: int, fps: float | None, num_frames: int) -> Int64[np.ndarray, "t"]:
    """Frames spread over a whole video.

    They are those of `evenly_spread_indices`, but where `fps` is unknown, as with pictures and arrays, as many frames
    as the clip has are the clip, and fewer are repeated evenly (`stretched_indices`).
    """
    if fps is None and 0 < total <= num_frames:
        return stretched_indices(total, num_frames)
    return evenly_spread_indices(total, num_frames)


def stretched_indices(total: int, num_frames: int) -> Int64[np.ndarray, "t"]:
    """All frames from the first to the last, spread over a clip: each repeated alike where they are fewer."""
    if total < num_frames:
        return np.arange(num_frames) * total // num_frames
    return np.arange(num_frames) * (total - 1) // max(num_frames - 1, 1)


def describe_short(total: int, fps: float | None, num_frames: int, sampling_rate: float | None) -> str | None:
    """Says what becomes of a video that is no longer than a clip; None for a longer one."""
    span = num_frames if sampling_rate is None else clip_span(fps, num_frames, sampling_rate)
    if fps is None and total == num_frames:
        return f"has exactly the {num_frames} frames of a clip: they are taken as they are"
    if total >= span:
        return None
    if fps is None and total < num_frames:
        return f"has fewer frames ({total}) than the {num_frames} of a clip: they are repeated evenly"
    if fps is None:
        return (
            f"has {total} frames of unknown rate, fewer than the {span:g} that a clip spans: "
            f"its {num_frames} frames are spread over them"
        )
    return (
        f"lasts {total / fps:.2f} seconds ({total} frames), less than the {span / fps:.2f} of a clip: "
        "the last frame is repeated"
    )


def clip_indices(
    total: int,
    fps: float | None,
    num_frames: int,
    sampling_rate: float,
    start: float | Literal["middle"] = "middle",
) -> Int64[np.ndarray, "t"]:
    """A clip of `num_frames` frames taken every `sampling_rate` frames of a video at 30 frames a second.

    The rule of the original code base (`datasets/decoder.py`): the clip spans
    `sampling_rate * num_frames / 30 * fps` source frames, and the indices are spread evenly from the first to the
    last frame of that span, both included, and truncated. "8x32" thus has a stride of 255 / 7 = 36.4 frames.

    Args:
        total: frames in the video.
        fps: frames a second of the video; None counts as 30, so that the rate counts source frames.
        num_frames: frames in the clip.
        sampling_rate: frames from one sampled frame to the next in a video of 30 frames a second.
        start: the first frame of the span (it may lie between two), or "middle" to centre the span in the video.

    Returns:
        Ascending frame indices in [0, total). Where the span reaches beyond the video, the last frame is repeated.
        Where `fps` is unknown and the video shorter than the span, its frames (from `start` on) are spread over the
        clip instead; and a video of exactly `num_frames` frames is the clip in its middle.

    Raises:
        VideoError: for a count below 1, a rate that is not positive or a negative start.
    """
    _require_frames(total, num_frames)
    if not 0 < sampling_rate < float("inf"):
        raise VideoError(f"sampling_rate is {sampling_rate}: it counts source frames and must be positive.")
    span = clip_span(fps, num_frames, sampling_rate)
    if fps is None and (total < span or (total == num_frames and start == "middle")):
        earliest = 0 if start == "middle" else min(int(_require_start(start)), total - 1)
        return earliest + stretched_indices(total - earliest, num_frames)
    first = max(total - span, 0.0) / 2 if start == "middle" else _require_start(start)
    return np.clip(np.linspace(first, first + span - 1, num_frames), 0, total - 1).astype(np.int64)


def clip_span(fps: float | None, num_frames: int, sampling_rate: float) -> float:
    """How many source frames a clip spans; the arguments are those of `clip_indices`."""
    return sampling_rate * num_frames / REFERENCE_FPS * (fps or REFERENCE_FPS)


def span_indices(start: int, stop: int, num_frames: int) -> Int64[np.ndarray, "t"]:
    """`num_frames` frames spread over the source frames `start` up to, but not including, `stop`.

    The rule of Transformers' TimeSformer examples (`sample_frame_indices`), there with
    `stop = start + int(num_frames * frame_sample_rate)` and a random start.

    Args:
        start: the first frame of the span.
        stop: the frame after the last.
        num_frames: frames in the clip.

    Returns:
        Ascending frame indices in [start, stop).

    Raises:
        VideoError: for a count below 1, a negative start or an empty span.
    """
    _require_frames(stop - _require_start(start), num_frames)
    return np.clip(np.linspace(start, stop, num_frames), start, stop - 1).astype(np.int64)


def spread_clips(
    total: int, fps: float | None, num_frames: int, sampling_rate: float, clips: int
) -> Int64[np.ndarray, "clips t"]:
    """Frames of several clips spread evenly over a video, from its beginning to its end; one is the middle clip."""
    if clips == 1:
        return clip_indices(total, fps, num_frames, sampling_rate)[None]
    room = max(total - clip_span(fps, num_frames, sampling_rate), 0.0)
    starts = np.linspace(0, room, clips).astype(np.int64)
    return np.stack([clip_indices(total, fps, num_frames, sampling_rate, int(start)) for start in starts])


@dataclasses.dataclass(frozen=True)
class SlidingWindows:
    """Clips that cover a whole video, each a window that slides on from the one before.

    Attributes:
        num_frames: of a window.
        sampling_rate: as in `clip_indices`.
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
        return clip_span(fps, self.num_frames, self.sampling_rate)

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
        starts = self.starts(total, fps).tolist()
        return np.stack([clip_indices(total, fps, self.num_frames, self.sampling_rate, start) for start in starts])

    def seconds(self, times: Float64[np.ndarray, " n"], fps: float | None) -> list[tuple[float, float]]:
        """Beginning and end of each window: when its first frame is shown, and when its last one ends.

        Windows have one number of frames. Where the frame rate varies, they therefore last for different times.

        Args:
            times: seconds at which each frame is shown, and last, at which the last frame ends.
            fps: mean frames a second, as for `starts`.
        """
        total = len(times) - 1
        starts = self.starts(total, fps)
        ends = np.interp(np.minimum(starts + self.span(fps), total), np.arange(total + 1), times)
        return list(zip(times[starts].tolist(), ends.tolist(), strict=True))


def _require_frames(total: float, num_frames: int) -> None:
    if num_frames < 1:
        raise VideoError(f"A clip of {num_frames} frames was asked for: ask for at least one.")
    if total < 1:
        raise VideoError(f"No clip can be taken from {total} frames: choose a span that holds at least one.")


def _require_start(start: float) -> float:
    if start < 0:
        raise VideoError(f"A clip can't start at frame {start}: frames count from 0.")
    return start
