"""Which frames of a video make a clip, and which part of them: the original's rules for training and for tests.

Everything random comes in as numbers in [0, 1), so that a clip is a plain function of them.
"""

import dataclasses
import math
import warnings

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from ..video.notices import VideoWarning
from ..video.packets import EncodedVideo
from ..video.reading import Video, read_by_rule
from ..video.sampling import REFERENCE_FPS, clip_indices, stretched_indices
from .config import Augmentation, ClipShape
from .spans import Span, frames_between

UNIFORM_DRAWS = 4
"""How many numbers `random_crop` takes."""


def frame_indices(
    total: int, fps: float | None, clip: ClipShape, positions: Float[np.ndarray, "*n t"]
) -> Int64[np.ndarray, "*n t"]:
    """Chooses the frames of clips (`datasets/decoder.py`, `datasets/ssv2.py`).

    With a sampling rate a clip begins at the first of its positions, as a part of the room that its span leaves. With
    "segments" each frame is taken from its own part of the video, at its own position in it.
    Pictures, whose rate is unknown, are spread over the clip where they are no more than it spans.

    Args:
        total: frames in the video.
        fps: frames a second; None if unknown.
        clip: number of frames and their rate.
        positions: numbers in [0, 1], one for each frame.
    """
    if clip.sampling_rate == "segments":
        if fps is None and total <= clip.num_frames and (positions == 0.5).all():  # no more pictures than a clip has
            return np.broadcast_to(stretched_indices(total, clip.num_frames), positions.shape)
        borders = np.round((total - 1) / clip.num_frames * np.arange(clip.num_frames + 1)).astype(np.int64)
        # Both borders of a part belong to it, as in the original. Of two frames in the middle the first is taken.
        steps = np.clip(positions * (np.diff(borders) + 1) - 1e-6, 0, np.diff(borders))
        return borders[:-1] + steps.astype(np.int64)
    span = clip.sampling_rate * clip.num_frames / REFERENCE_FPS * (fps or REFERENCE_FPS)
    starts = positions[..., 0] * max(total - span, 0.0)
    clips = [clip_indices(total, fps, clip.num_frames, clip.sampling_rate, float(start)) for start in starts.ravel()]
    return np.stack(clips).reshape(positions.shape)


@dataclasses.dataclass(frozen=True)
class ClipsOfSpan:
    """The rule of clips that lie within a part of a video, as if that were the whole.

    Attributes:
        span: the part.
        clip: number of frames and their rate.
        positions: as in `frame_indices`.
        times: the time of each frame in seconds after the first, where it is known.
    """

    span: Span
    clip: ClipShape
    positions: Float[np.ndarray, "*n t"]
    times: Float[np.ndarray, " f"] | None = None

    def __call__(self, total: int, fps: float | None) -> Int64[np.ndarray, "*n t"]:
        """Chooses the frames."""
        times = self.times if self.times is not None and len(self.times) == total else None
        first, end = frames_between(self.span, total, fps, times)
        return first + frame_indices(end - first, fps, self.clip, self.positions)

    def timed(self, times: Float[np.ndarray, " f"]) -> "ClipsOfSpan":
        """The same rule for frames shown at these times."""
        return dataclasses.replace(self, times=times)


def read_clips(
    video: Video | EncodedVideo,
    clip: ClipShape,
    positions: Float[np.ndarray, "*n t"],
    span: Span | None = None,
) -> UInt8[np.ndarray, "*n t h w 3"]:
    """Decodes clips, on one thread and each frame once. What is left of a damaged video is used without a word.

    Args:
        video: the video.
        clip: number of frames and their rate.
        positions: as in `frame_indices`.
        span: the part of the video that the clips lie in; nothing else of it is decoded but for what leads there from a
            keyframe.

    Raises:
        VideoError: nothing of it can be decoded, or it ends before the span begins.
    """
    rule = ClipsOfSpan(span, clip, positions) if span else lambda total, fps: frame_indices(total, fps, clip, positions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        return read_by_rule(video, rule, threads=1)


@dataclasses.dataclass(frozen=True)
class CropBox:
    """The part of a frame that a crop shows, in the frame's own pixels.

    Attributes:
        left: left edge; none of the edges need be a whole number.
        top: upper edge.
        right: right edge.
        bottom: lower edge.
        mirrored: whether left and right are exchanged.
    """

    left: float
    top: float
    right: float
    bottom: float
    mirrored: bool = False


def random_crop(
    height: int, width: int, clip: ClipShape, augmentation: Augmentation, draws: Float[np.ndarray, "4"]
) -> CropBox:
    """Draws scale, place and direction of a crop (`datasets/transform.py`: short-side jitter, random crop, flip)."""
    crop = min(clip.height, clip.width)
    lowest, highest = augmentation.short_side or (round(crop * 8 / 7), round(crop * 10 / 7))
    if augmentation.short_side_sampling == "scale":
        short_side = round(1 / (1 / highest + draws[0] * (1 / lowest - 1 / highest)))
    else:
        short_side = round(lowest + draws[0] * (highest - lowest))
    scaled = _scaled(height, width, clip, short_side)
    # Every whole place from one border to the other is as likely as another.
    top = int(draws[1] * (scaled[0] - clip.height + 1))
    left = int(draws[2] * (scaled[1] - clip.width + 1))
    box = _crop_box(height, width, clip, scaled, (top, left))
    return dataclasses.replace(box, mirrored=bool(draws[3] < augmentation.flip))


def uniform_crops(height: int, width: int, clip: ClipShape, crops: int) -> list[CropBox]:
    """Spreads `crops` crops evenly along the long side, the short side filling each; a single one is in the centre."""
    scaled = _scaled(height, width, clip, min(clip.height, clip.width))
    places = [0.5] if crops == 1 else [i / (crops - 1) for i in range(crops)]
    room = scaled[0] - clip.height, scaled[1] - clip.width
    corners = [(math.ceil(place * room[0]), math.ceil(place * room[1])) for place in places]
    return [_crop_box(height, width, clip, scaled, corner) for corner in corners]


def _scaled(height: int, width: int, clip: ClipShape, short_side: int) -> tuple[int, int]:
    """The size of a frame whose short side is resized to `short_side`.

    Where the crop is no square, it is the side that comes nearer to the crop's.
    """
    scale = max(clip.height / height, clip.width / width) * short_side / min(clip.height, clip.width)
    # Rounded down, as the original has it; 1e-6 keeps 223.99999 from becoming 223.
    return max(int(height * scale + 1e-6), clip.height), max(int(width * scale + 1e-6), clip.width)


def _crop_box(height: int, width: int, clip: ClipShape, scaled: tuple[int, int], corner: tuple[int, int]) -> CropBox:
    """The box of a crop that begins at a corner (row, column) of the resized frame."""
    down, across = height / scaled[0], width / scaled[1]
    top, left = corner
    return CropBox(left * across, top * down, (left + clip.width) * across, (top + clip.height) * down)


def crop_and_resize(
    frames: UInt8[np.ndarray, "*n h w 3"], box: CropBox, height: int, width: int
) -> UInt8[np.ndarray, "*n {height} {width} 3"]:
    """Crops frames to a box and resizes that bilinearly to `height` x `width`.

    The result is that of resizing whole frames and cropping then, without the work for what is cropped away.
    """
    pictures = frames.reshape(-1, *frames.shape[-3:])
    result = np.empty((len(pictures), height, width, 3), np.uint8)
    edges = (box.left, box.top, min(box.right, frames.shape[-2]), min(box.bottom, frames.shape[-3]))
    for picture, out in zip(pictures, result, strict=True):
        resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR, box=edges))
        out[:] = resized[:, ::-1] if box.mirrored else resized
    return result.reshape(*frames.shape[:-3], height, width, 3)
