"""Videos to frames: files, directories of pictures and arrays, read by frame index.

clip = read_clip("video.mp4", 8)                              # 8 frames spread over the whole video
clip = read_clip("video.mp4", 8, sampling_rate=32)            # the middle clip "8x32"
clip = read_frames("video.mp4", span_indices(0, 256, 8))      # any frames at all
clips = read_frames("video.mp4", np.stack([clip_indices(...), clip_indices(...)]))  # decoded once
"""

import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, Int64, Shaped, UInt8
from PIL import Image, ImageOps

from ..errors import VideoError
from .decoding import Frames, Rule, nearest_earlier, read_file, warn_of_damage
from .packets import EncodedVideo
from .sampling import clip_indices, evenly_spread_indices

Video = str | os.PathLike[str] | Shaped[np.ndarray, "..."]
"""A video file, a directory with one picture per frame, or an array (t, h, w, 3) or (t, h, w) of uint8."""

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class Pictures:
    """A video as pictures, one for each frame, that are not files on this machine.

    Attributes:
        name: what messages call it.
        names: of the pictures, in any order; they are taken in natural order (2.jpg before 10.jpg).
        read: gives the contents of the picture file of a name; may raise OSError.
    """

    name: str
    names: tuple[str, ...]
    read: Callable[[str], bytes] = field(repr=False)

    def __str__(self) -> str:
        return self.name


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


def probe(video: Video | EncodedVideo | Pictures) -> VideoInfo:
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
        RGB frames. Pictures come upright; a pixel's aspect ratio is not regarded. Where the clip reaches beyond the
        video, the last frame is repeated.

    Raises:
        VideoError: if the video can't be read or the numbers make no clip.

    Warns:
        DamagedVideoWarning: if frames were lost; the nearest earlier ones (or the first) stand in for them.
    """
    if sampling_rate is None:
        if start != "middle":
            raise VideoError(f"start={start} needs a sampling_rate: without one the frames cover the whole video.")
        return _read(video, lambda total, fps: evenly_spread_indices(total, num_frames))
    return _read(video, lambda total, fps: clip_indices(total, fps, num_frames, sampling_rate, start))


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
    video: Video | EncodedVideo | Pictures, rule: Rule, *, threads: int = 0
) -> UInt8[np.ndarray, "*n h w 3"]:
    """Reads the frames that a function of a video's length chooses.

    Args:
        video: as in `read_clip`, or the contents of a video file or of a directory of pictures.
        rule: is given the number of frames and the frames a second (None where unknown), and returns frame indices of
            any shape, each in [0, frames). Where a file turns out to hold another number it is called again.
        threads: that decode a file; 0 is as many as help.

    Returns:
        RGB frames, as from `read_clip`.

    Raises:
        VideoError: if the video can't be read.

    Warns:
        DamagedVideoWarning: as `read_clip`.
    """
    return _read(video, rule, threads=threads)


def _read(
    video: Video | EncodedVideo | Pictures, rule: Rule, highest: int | None = None, threads: int = 0
) -> UInt8[np.ndarray, "*n h w 3"]:
    if isinstance(video, np.ndarray):
        return _read_array(video, rule)
    try:
        if isinstance(video, Pictures):
            frames, keys = _read_pictures(video, rule)
        elif not isinstance(video, EncodedVideo) and Path(video).is_dir():
            frames, keys = _read_pictures(_pictures_in(Path(video)), rule)
        else:
            frames, keys = read_file(video, rule, highest, threads)
    except PermissionError as error:
        raise VideoError(f"{video} can't be read: permission denied.") from error
    shape = frames[min(frames)].shape
    for key, frame in frames.items():
        if frame.shape != shape:  # a stream may change its picture's size on the way
            frames[key] = np.asarray(Image.fromarray(frame).resize((shape[1], shape[0])))
    return np.stack([frames[key] for key in keys.ravel().tolist()]).reshape(*keys.shape, *shape)


def _read_array(video: Shaped[np.ndarray, "..."], rule: Rule) -> UInt8[np.ndarray, "*n h w 3"]:
    gray = video.ndim == 3
    if video.dtype != np.uint8 or not (gray or (video.ndim == 4 and video.shape[3] == 3)) or video.size == 0:
        raise VideoError(
            f"An array of shape {video.shape} and type {video.dtype} is no video: "
            "uint8 frames of shape (t, h, w, 3), or (t, h, w) in gray, are needed."
        )
    frames = video[rule(len(video), None)]
    return np.repeat(frames[..., None], 3, axis=-1) if gray else frames


def _pictures_in(directory: Path) -> Pictures:
    files = (path for path in directory.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    names = tuple(path.name for path in files if path.name[0] != ".")
    return Pictures(str(directory), names, lambda name: (directory / name).read_bytes())


def _read_pictures(pictures: Pictures, rule: Rule) -> tuple[Frames, Int64[np.ndarray, "..."]]:
    names = sorted(pictures.names, key=lambda name: (_natural_order(name), name))
    if not names:
        raise VideoError(f"{pictures} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}).")
    keys = rule(len(names), None)
    wanted = np.unique(keys).tolist()
    frames = {i: picture for i in wanted if (picture := _load_picture(pictures, names[i])) is not None}
    if len(frames) < len(wanted):
        readable = [i for i, name in enumerate(names) if _load_picture(pictures, name) is not None]
        if not readable:
            raise VideoError(f"No picture in {pictures} can be read.")
        warn_of_damage(pictures, len(readable), len(names))
        keys = np.array(readable)[nearest_earlier(np.array(readable), keys)]
        chosen = np.unique(keys).tolist()
        frames = {i: picture for i in chosen if (picture := _load_picture(pictures, names[i])) is not None}
    first, *others = frames
    for other in others:
        if frames[other].shape != frames[first].shape:
            sizes = ", ".join(f"{names[i]} {frames[i].shape[1]}x{frames[i].shape[0]}" for i in (first, other))
            raise VideoError(f"The pictures in {pictures} differ in size ({sizes}): a video's frames have one size.")
    return frames, keys


def _natural_order(name: str) -> list[int | str]:
    """A key that sorts 2.jpg before 10.jpg: every second part is a number."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))]


def _load_picture(pictures: Pictures, name: str) -> UInt8[np.ndarray, "h w 3"] | None:
    """Reads a picture as upright RGB; None if it can't be read."""
    try:
        with Image.open(io.BytesIO(pictures.read(name))) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # Pillow would cut off 16-bit gray values at 255
                gray = np.clip(np.asarray(upright, np.int64) // 257, 0, 255).astype(np.uint8)
                return np.repeat(gray[..., None], 3, axis=-1)
            return np.asarray(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError):
        return None
