"""Videos to frames: files, directories of pictures and arrays, read by frame index.

clip = read_clip("video.mp4", 8)                              # 8 frames spread over the whole video
clip = read_clip("video.mp4", 8, sampling_rate=32)            # the middle clip "8x32"
clip = read_frames("video.mp4", span_indices(0, 256, 8))      # any frames at all
clips = read_frames("video.mp4", np.stack([clip_indices(...), clip_indices(...)]))  # decoded once
clip = read_clip(FileStream("video.mkv", 1), 8)               # of the second of several video streams
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, Int64, Shaped, UInt8
from PIL import Image, ImageOps

from ..errors import VideoError
from .animations import open_animation, read_animation
from .decoding import read_file
from .in_order import Frames, Rule
from .notices import ChangingSizeWarning
from .packets import EncodedVideo
from .pictures import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from .pictures import Pictures, read_pictures
from .sampling import clip_indices, describe_short, spread_indices

logger = logging.getLogger("timesformer_jax")

Video = str | os.PathLike[str] | Shaped[np.ndarray, "..."] | Pictures
"""A video file, a directory with one picture per frame, or an array (t, h, w, 3) or (t, h, w) of uint8.

A `FileStream` is one of several video streams of a file.
"""

Prepare = Callable[[UInt8[np.ndarray, "h w 3"]], np.ndarray]
"""Changes a frame, such as by resizing."""


@dataclass(frozen=True)
class VideoInfo:
    """The length and size of a video.

    Attributes:
        frames: number of frames, counted and not taken from the header.
        fps: mean frames a second; None where nothing tells, as with pictures and arrays.
        height: of the upright picture, in pixels.
        width: of the upright picture, in pixels.
    """

    frames: int
    fps: float | None
    height: int
    width: int

    @property
    def duration(self) -> float | None:
        """Seconds; None where the frames a second are unknown."""
        return self.frames / self.fps if self.fps else None


def probe(video: Video | EncodedVideo) -> VideoInfo:
    """Counts a video's frames without decoding more than the first.

    Args:
        video: a video file, a directory of pictures or an array; or the contents of a file or directory.

    Raises:
        VideoError: if it can't be read.
    """
    seen: list[tuple[int, float | None]] = []

    def first(total: int, fps: float | None) -> Int64[np.ndarray, "1"]:
        seen.append((total, fps))
        return np.zeros(1, np.int64)

    _, height, width, _ = _read(video, first, threads=1).shape
    return VideoInfo(*seen[-1], height=height, width=width)


def read_clip(
    video: Video,
    num_frames: int,
    *,
    sampling_rate: float | None = None,
    start: int | Literal["middle"] = "middle",
) -> UInt8[np.ndarray, "t h w 3"]:
    """Reads one clip of a video.

    Args:
        video: a video file, a directory with one picture per frame (in natural order: 2.jpg before 10.jpg), or an
            array (t, h, w, 3), or (t, h, w) in gray, of uint8.
        num_frames: frames in the clip.
        sampling_rate: None spreads the frames evenly over the whole video (`evenly_spread_indices`). A number takes one
            frame in so many of a video at 30 frames a second (`clip_indices`), as checkpoints such as "8x32" were
            trained; in pictures and arrays it counts frames.
        start: with a sampling rate, the first source frame of the clip, or "middle" for the clip in the middle of the
            video.

    Returns:
        RGB frames. Pictures come upright; a pixel's aspect ratio is not regarded. All have the size of the first:
        where a file changes it in mid-stream, others are resized and cut (`read_by_rule` can prepare each in its own).
        Where the clip reaches beyond a video file, the last frame is repeated. Pictures and arrays that are shorter
        than a clip are spread over it evenly, and those of exactly `num_frames` frames are the clip. A logged warning
        says so in each case, and names a gap in the numbers of pictures.

    Raises:
        VideoError: if the video can't be read or the numbers make no clip.

    Warns:
        DamagedVideoWarning: if frames were lost; the nearest earlier ones (or the first) stand in for them.
        SeveralStreamsWarning: if the file holds several video streams and `video` is no `FileStream`.
        ChangingSizeWarning: if later frames had to be resized.
    """
    rule, seen = _noting(clip_rule(num_frames, sampling_rate, start))
    clip = _read(video, rule)
    say_short(video, *seen[-1], num_frames, sampling_rate)
    return clip


def clip_rule(num_frames: int, sampling_rate: float | None, start: int | Literal["middle"] = "middle") -> Rule:
    """Gives the rule by which `read_clip` takes frames; the arguments are its own."""
    if sampling_rate is not None:
        return lambda total, fps: clip_indices(total, fps, num_frames, sampling_rate, start)
    if start != "middle":
        raise VideoError(f"start={start} needs a sampling_rate: without one the frames cover the whole video.")
    return lambda total, fps: spread_indices(total, fps, num_frames)


def read_frames(video: Video, indices: Int[np.ndarray, "*n"] | Sequence[int]) -> UInt8[np.ndarray, "*n h w 3"]:
    """Reads any frames of a video, each decoded once.

    Args:
        video: as in `read_clip`.
        indices: frame indices in any order and shape; those beyond the end mean the last frame.

    Returns:
        RGB frames, as from `read_clip`.

    Raises:
        VideoError: if the video can't be read or an index is negative.

    Warns:
        DamagedVideoWarning: as `read_clip`.
    """
    wanted = np.asarray(indices, np.int64)
    if wanted.size == 0 or wanted.min() < 0:
        raise VideoError("Frame indices count from 0, and at least one is needed.")
    return _read(video, lambda total, fps: np.minimum(wanted, total - 1), int(wanted.max()))


def read_by_rule(
    video: Video | EncodedVideo,
    rule: Rule,
    *,
    threads: int = 0,
    prepare: Prepare | None = None,
    said_of: tuple[int, float | None] | None = None,
) -> Shaped[np.ndarray, "*n h w 3"]:
    """Reads the frames that a function of a video's length chooses.

    Args:
        video: as in `read_clip`, or the contents of a video file or of a directory of pictures.
        rule: is given the number of frames and the frames a second (None where unknown), and returns frame indices of
            any shape, each in [0, frames). Where a file turns out to hold another number it is called again.
        threads: that decode a file; 0 is as many as help.
        said_of: frames and sampling rate of a clip: what becomes of a video that is no longer is logged.
        prepare: is given each frame once, in its own shape, and gives what is returned of it.

    Returns:
        RGB frames, as from `read_clip`, prepared.

    Raises:
        VideoError: if the video can't be read.

    Warns:
        DamagedVideoWarning: as `read_clip`.
    """
    if said_of is None:
        return _read(video, rule, threads=threads, prepare=prepare)
    rule, seen = _noting(rule)
    read = _read(video, rule, threads=threads, prepare=prepare)
    say_short(video, *seen[-1], *said_of)
    return read


def say_short(
    video: Video | EncodedVideo, total: int, fps: float | None, num_frames: int, sampling_rate: float | None
) -> None:
    """Logs what becomes of a video that is no longer than a clip, and gaps in the numbers of its pictures."""
    if isinstance(video, Pictures) or (not isinstance(video, np.ndarray | EncodedVideo) and Path(video).is_dir()):
        pictures = video if isinstance(video, Pictures) else Pictures.in_folder(video)
        if gaps := pictures.series().gaps():
            logger.warning("%s: %s.", pictures, gaps)
    note = describe_short(total, fps, num_frames, sampling_rate)
    if note is not None:
        logger.warning("%s", f"{_name(video)} {note}.")


def _noting(rule: Rule) -> tuple[Rule, list[tuple[int, float | None]]]:
    """A rule, and the frames and the rate that it was given."""
    seen: list[tuple[int, float | None]] = []

    def noted(total: int, fps: float | None) -> Int64[np.ndarray, "..."]:
        seen.append((total, fps))
        return rule(total, fps)

    return noted, seen


def _name(video: Video | EncodedVideo) -> str:
    return f"An array of {len(video)} frames" if isinstance(video, np.ndarray) else str(video)


def _read(
    video: Video | EncodedVideo,
    rule: Rule,
    highest: int | None = None,
    threads: int = 0,
    prepare: Prepare | None = None,
) -> Shaped[np.ndarray, "*n h w 3"]:
    if isinstance(video, np.ndarray):
        array = _read_array(video, rule)
        if prepare is None:
            return array
        frames = [prepare(frame) for frame in array.reshape(-1, *array.shape[-3:])]
        return np.stack(frames).reshape(*array.shape[:-3], *frames[0].shape)
    try:
        if isinstance(video, Pictures) or (not isinstance(video, EncodedVideo) and Path(video).is_dir()):
            pictures = video if isinstance(video, Pictures) else Pictures.in_folder(video)
            frames, keys = read_pictures(pictures, rule)
        elif animation := open_animation(video):
            frames, keys = read_animation(animation, rule)
        else:
            frames, keys = read_file(video, rule, highest, threads)
    except PermissionError as error:
        raise VideoError(f"{video} can't be read: permission denied.") from error
    if prepare is None:
        return _in_order_of(keys, _with_one_shape(frames, video))
    prepared = {key: prepare(frame) for key, frame in frames.items()}
    require_one_shape(prepared.values(), video)
    return _in_order_of(keys, prepared)


def _in_order_of(keys: Int64[np.ndarray, "..."], frames: dict[int, np.ndarray]) -> np.ndarray:
    return np.stack([frames[key] for key in keys.ravel().tolist()]).reshape(*keys.shape, *frames[min(frames)].shape)


def _with_one_shape(frames: Frames, video: object) -> Frames:
    """Gives frames the shape of the first: others are resized so that they cover it, and cut, but never distorted."""
    height, width, _ = frames[min(frames)].shape
    other = next((frame for frame in frames.values() if frame.shape[:2] != (height, width)), None)
    if other is None:
        return frames
    warnings.warn(
        f"{video} changes its size in mid-stream ({width}x{height}, {other.shape[1]}x{other.shape[0]}): all frames are "
        "given the size of the first, and what does not fit is cut off.",
        ChangingSizeWarning,
        stacklevel=4,
    )
    return {key: np.asarray(ImageOps.fit(Image.fromarray(frame), (width, height))) for key, frame in frames.items()}


def require_one_shape(frames: Iterable[np.ndarray], video: object) -> None:
    """Refuses frames of several shapes, which make no clip.

    Raises:
        VideoError: there are some, as a file changes its size in mid-stream and the preprocessing does not crop.
    """
    sizes = sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames})
    if len(sizes) > 1:
        raise VideoError(
            f"{video} changes its size in mid-stream, and the preprocessing gives frames of {' and '.join(sizes)}: it "
            "must crop them to one size."
        )


def _read_array(video: Shaped[np.ndarray, "..."], rule: Rule) -> UInt8[np.ndarray, "*n h w 3"]:
    gray = video.ndim == 3
    if video.dtype != np.uint8 or not (gray or (video.ndim == 4 and video.shape[3] == 3)) or video.size == 0:
        raise VideoError(
            f"An array of shape {video.shape} and type {video.dtype} is no video: "
            "uint8 frames of shape (t, h, w, 3), or (t, h, w) in gray, are needed."
        )
    frames = video[rule(len(video), None)]
    return np.repeat(frames[..., None], 3, axis=-1) if gray else frames
