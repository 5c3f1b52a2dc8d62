"""Videos to frames: files, directories of pictures and arrays, read by frame index.

clip = read_clip("video.mp4", 8)                              # 8 frames spread over the whole video
clip = read_clip("video.mp4", 8, sampling_rate=32)            # the middle clip "8x32"
clip = read_frames("video.mp4", span_indices(0, 256, 8))      # any frames at all
clips = read_frames("video.mp4", np.stack([clip_indices(...), clip_indices(...)]))  # decoded once
clip = read_clip(FileStream("video.mkv", 1), 8)               # of the second of several video streams
"""

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, Int64, Shaped, UInt8
from PIL import Image, ImageOps

from ..errors import VideoError
from .animations import open_animation, read_animation
from .decoding import read_file
from .in_order import Frames, Rule, nearest_earlier, warn_of_damage
from .notices import ChangingSizeWarning
from .packets import EncodedVideo
from .sampling import clip_indices, evenly_spread_indices

Video = str | os.PathLike[str] | Shaped[np.ndarray, "..."]
"""A video file, a directory with one picture per frame, or an array (t, h, w, 3) or (t, h, w) of uint8.

A `FileStream` is one of several video streams of a file.
"""

Prepare = Callable[[UInt8[np.ndarray, "h w 3"]], np.ndarray]
"""Changes a frame, such as by resizing."""

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
        RGB frames. Pictures come upright; a pixel's aspect ratio is not regarded. All have the size of the first:
        where a file changes it in mid-stream, others are resized and cut (`read_by_rule` can prepare each in its own).
        Where the clip reaches beyond the video, the last frame is repeated.

    Raises:
        VideoError: if the video can't be read or the numbers make no clip.

    Warns:
        DamagedVideoWarning: if frames were lost; the nearest earlier ones (or the first) stand in for them.
        SeveralStreamsWarning: if the file holds several video streams and `video` is no `FileStream`.
        ChangingSizeWarning: if later frames had to be resized.
    """
    return _read(video, clip_rule(num_frames, sampling_rate, start))


def clip_rule(num_frames: int, sampling_rate: float | None, start: int | Literal["middle"] = "middle") -> Rule:
    """Gives the rule by which `read_clip` takes frames; the arguments are its own."""
    if sampling_rate is not None:
        return lambda total, fps: clip_indices(total, fps, num_frames, sampling_rate, start)
    if start != "middle":
        raise VideoError(f"start={start} needs a sampling_rate: without one the frames cover the whole video.")
    return lambda total, fps: evenly_spread_indices(total, num_frames)


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
    video: Video | EncodedVideo | Pictures, rule: Rule, *, threads: int = 0, prepare: Prepare | None = None
) -> Shaped[np.ndarray, "*n h w 3"]:
    """Reads the frames that a function of a video's length chooses.

    Args:
        video: as in `read_clip`, or the contents of a video file or of a directory of pictures.
        rule: is given the number of frames and the frames a second (None where unknown), and returns frame indices of
            any shape, each in [0, frames). Where a file turns out to hold another number it is called again.
        threads: that decode a file; 0 is as many as help.
        prepare: is given each frame once, in its own shape, and gives what is returned of it.

    Returns:
        RGB frames, as from `read_clip`, prepared.

    Raises:
        VideoError: if the video can't be read.

    Warns:
        DamagedVideoWarning: as `read_clip`.
    """
    return _read(video, rule, threads=threads, prepare=prepare)


def _read(
    video: Video | EncodedVideo | Pictures,
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
        if isinstance(video, Pictures):
            frames, keys = _read_pictures(video, rule)
        elif not isinstance(video, EncodedVideo) and Path(video).is_dir():
            frames, keys = _read_pictures(_pictures_in(Path(video)), rule)
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
