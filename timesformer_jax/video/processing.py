"""Frames to pixel values, as a checkpoint's `preprocessor_config.json` says.

    processor = VideoProcessor.from_pretrained("path/of/a/checkpoint")
    pixel_values = processor(clip)                 # (1, t, h, w, 3) float32

The values equal, bit for bit, those of `VideoMAEImageProcessor`, which is TimeSformer's processor in Transformers 4.x,
but with the channels last. Resizing is Pillow's; torchvision, which Transformers 5.x resizes with, rounds differently.
"""

import json
import math
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from ..errors import ConfigError, VideoError
from ..support.files import write_atomically
from .processor_files import IMAGE_FILE, read_processors, read_settings, sections

Frame = UInt8[np.ndarray, "h w 3"] | Image.Image
Clip = UInt8[np.ndarray, "t h w 3"] | Sequence[Frame]


@dataclass(frozen=True)
class VideoProcessor:
    """Resizes, crops, rescales and normalizes frames. The defaults are those of the published TimeSformer checkpoints.

    Attributes:
        do_resize: whether to resize.
        size: length of the shortest edge after resizing, which keeps the aspect ratio, or (height, width); in pixels.
        resample: the filter, a `PIL.Image.Resampling`.
        do_center_crop: whether to cut out the middle. Where a frame is smaller, it is padded with zeros.
        crop_size: (height, width) of the cut, in pixels; one number makes a square.
        do_rescale: whether to multiply by `rescale_factor`.
        rescale_factor: brings pixels from [0, 255] to [0, 1].
        offset: whether 1 is subtracted from what was rescaled, as VivitImageProcessor does.
        do_normalize: whether to subtract `image_mean` and then divide by `image_std`.
        image_mean: for each channel, or one number for all.
        image_std: for each channel, or one number for all.
        channel_order: "bgr" swaps the channels of the frames, which come in RGB; mean and standard deviation then count
            in that order, too.
        other: further keys of the file that have no effect on pixels, as (key, JSON text).

    Raises:
        ConfigError: for a value that can't work, naming the field.
    """

    do_resize: bool = True
    size: int | tuple[int, int] = 224
    resample: int = int(Image.Resampling.BILINEAR)
    do_center_crop: bool = True
    crop_size: int | tuple[int, int] = (224, 224)
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    offset: bool = False
    do_normalize: bool = True
    image_mean: float | tuple[float, ...] = (0.45, 0.45, 0.45)
    image_std: float | tuple[float, ...] = (0.225, 0.225, 0.225)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    other: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        for name in ("do_resize", "do_center_crop", "do_rescale", "offset", "do_normalize"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}: it must be true or false.")
        crop_size = self.crop_size if isinstance(self.crop_size, tuple) else (self.crop_size, self.crop_size)
        object.__setattr__(self, "crop_size", crop_size)
        size = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        for name, edges in (("size", size), ("crop_size", crop_size)):
            if len(edges) != 2 or not all(_is_number(edge, int) and edge > 0 for edge in edges):
                raise ConfigError(f"{name} is {getattr(self, name)!r}: edges must be positive whole numbers of pixels.")
        if self.resample not in list(Image.Resampling) or isinstance(self.resample, bool):
            known = ", ".join(f"{int(filter)} ({filter.name.lower()})" for filter in Image.Resampling)
            raise ConfigError(f"resample is {self.resample!r}: the known filters are {known}.")
        if self.offset and not self.do_rescale:
            raise ConfigError("offset is true, but do_rescale is false: what is not rescaled can't be moved by 1.")
        if not _is_number(self.rescale_factor, float):
            raise ConfigError(f"rescale_factor is {self.rescale_factor!r}: it must be a finite number.")
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            channels = value if isinstance(value, tuple) else (value,) * 3
            if len(channels) != 3 or not all(_is_number(channel, float) for channel in channels):
                raise ConfigError(f"{name} is {value!r}: it must be one finite number, or three for the channels.")
            if name == "image_std" and not all(channels):
                raise ConfigError(f"image_std is {value!r}: pixels can't be divided by zero.")
            object.__setattr__(self, name, tuple(map(float, channels)))
        if self.channel_order not in ("rgb", "bgr"):
            raise ConfigError(f'channel_order is {self.channel_order!r}: it must be "rgb" or "bgr".')

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of the frames that come out, in pixels; None where they depend on those that go in."""
        if self.do_center_crop:
            return cast(tuple[int, int], self.crop_size)
        return self.size if self.do_resize and isinstance(self.size, tuple) else None

    def with_output_size(self, height: int, width: int) -> "VideoProcessor":
        """The same preprocessing for frames of another size, which shows the same part of a picture.

        Where frames of any size came out, they are resized and cropped as for the published models.
        """
        before = self.output_size
        if before == (height, width):
            return self
        changes: dict[str, Any] = {"crop_size": (height, width)}
        if before is None:
            changes |= {"do_resize": True, "do_center_crop": True, "size": min(height, width)}
        elif isinstance(self.size, tuple):
            sides = zip(self.size, (height, width), before, strict=True)
            changes["size"] = tuple(max(round(side * new / old), 1) for side, new, old in sides)
        else:
            changes["size"] = max(round(self.size * min(height, width) / min(before)), 1)
        return replace(self, **changes)

    def __call__(
        self, videos: Clip | Sequence[Clip] | UInt8[np.ndarray, "b t h w 3"]
    ) -> Float32[np.ndarray, "b t rows columns 3"]:
        """Turns clips into pixel values.

        Args:
            videos: one clip (a uint8 array (t, h, w, 3), or a sequence of frames, each a uint8 array (h, w, 3) or a PIL
                image), or a batch of clips (a sequence of them, or an array with one more axis).

        Returns:
            Pixel values, channels last. One clip makes a batch of one.

        Raises:
            VideoError: for anything else, or if the clips don't come out with one shape.
        """
        clips = [self.resize_and_crop(clip) for clip in _batch(videos)]
        if len({clip.shape for clip in clips}) != 1:
            shapes = ", ".join(str(clip.shape) for clip in clips)
            raise VideoError(f"The clips of a batch must have one shape, but they have {shapes or 'none'}.")
        return self.rescale_and_normalize(np.stack(clips))

    def resize_and_crop(self, clip: Clip) -> UInt8[np.ndarray, "t rows columns 3"]:
        """Does the geometric half: gives frames of the model's size and channel order, still from 0 to 255.

        Args:
            clip: frames as in a call.

        Raises:
            VideoError: if a frame isn't uint8 RGB, or the frames don't come out with one size.
        """
        frames = [self._crop(self._resize(_to_rgb(frame))) for frame in clip]
        if len({frame.shape for frame in frames}) != 1:
            sizes = ", ".join(sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames}))
            raise VideoError(f"The frames of a clip must have one size, but they have {sizes or 'none'}.")
        stacked = np.stack(frames)
        return stacked if self.channel_order == "rgb" else np.ascontiguousarray(stacked[..., ::-1])

    def rescale_and_normalize(self, frames: UInt8[np.ndarray, "*b h w 3"]) -> Float32[np.ndarray, "*b h w 3"]:
        """Does the arithmetic half, on what `resize_and_crop` gives.

        It maps each of a channel's 256 levels to one number, so it is a table, calculated in the reference's order and
        precision: rescaled in float64, rounded to float32, normalized in float32.
        """
        levels = np.arange(256, dtype=np.float32)
        if self.do_rescale:
            levels = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32) - self.offset
        table = np.repeat(levels[:, None], 3, axis=1)
        if self.do_normalize:
            table = (table - np.array(self.image_mean, np.float32)) / np.array(self.image_std, np.float32)
        values = np.empty(frames.shape, np.float32)
        for channel in range(3):
            values[..., channel] = table[:, channel][frames[..., channel]]
        return values

    def _resize(self, frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "rows columns 3"]:
        if not self.do_resize:
            return frame
        height, width = frame.shape[:2]
        if isinstance(self.size, tuple):
            height, width = self.size
        elif width <= height:
            height, width = int(self.size * height / width), self.size
        else:
            height, width = self.size, int(self.size * width / height)
        return np.asarray(Image.fromarray(frame).resize((width, height), self.resample))

    def _crop(self, frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "rows columns 3"]:
        if not self.do_center_crop:
            return frame
        cut = np.zeros((*cast(tuple[int, int], self.crop_size), 3), np.uint8)
        # Rounded down for a cut and up for padding: an odd pixel of padding goes to the top and left.
        rows, columns = ((edge - wanted) // 2 for edge, wanted in zip(frame.shape, cut.shape[:2], strict=False))
        kept = frame[max(rows, 0) :, max(columns, 0) :][: cut.shape[0], : cut.shape[1]]
        cut[max(-rows, 0) :, max(-columns, 0) :][: kept.shape[0], : kept.shape[1]] = kept
        return cut

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = IMAGE_FILE) -> "VideoProcessor":
        """Reads the contents of a processor file of Transformers, 4.x or 5.x; of several processors in it the first.

        Args:
            values: what the file holds. Missing keys take the defaults of the class that the file names.
            source: name of the file, for messages and to tell the class where the file doesn't.

        Raises:
            ConfigError: for a value that can't work, or a setting that would change pixels and isn't known here.
        """
        try:
            known = {field.name for field in fields(cls)} - {"other"}
            source, values = next(iter(sections(values, source).items()))
            return cls(**read_settings(values, known, source=source))
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The settings as Transformers 4.x and 5.x read them, in the layout of VideoMAEImageProcessor.

        With an `offset` it is that of VivitImageProcessor.
        """
        crop_height, crop_width = cast(tuple[int, int], self.crop_size)
        size = self.size
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "other"}
        for name, default in (("channel_order", "rgb"), ("offset", False)):
            if own[name] == default:
                del own[name]
        return (
            {key: json.loads(text) for key, text in self.other}
            | own
            | {
                "image_processor_type": "VivitImageProcessor" if self.offset else "VideoMAEImageProcessor",
                "size": {"height": size[0], "width": size[1]} if isinstance(size, tuple) else {"shortest_edge": size},
                "crop_size": {"height": crop_height, "width": crop_width},
                "image_mean": list(cast(tuple[float, ...], self.image_mean)),
                "image_std": list(cast(tuple[float, ...], self.image_std)),
            }
        )

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> "VideoProcessor":
        """Reads a processor file, or the one in a checkpoint's directory.

        Where a directory holds several of preprocessor_config.json, video_preprocessor_config.json and
        processor_config.json, the first is used, as Transformers' AutoImageProcessor does, with a warning that names
        the others if they would give other pixels. So it is with two processors in a processor_config.json.

        Args:
            path: a checkpoint's directory or a file.

        Raises:
            ConfigError: if there is no such file, it isn't JSON or `from_dict` refuses it.
        """
        path = Path(path)
        found, notes = read_processors(path, cls.from_dict)
        (used, processor), *others = found.items()
        for source, other in others:
            if names := processor.differences(other):
                notes.append(f"{source} differs from {Path(used).name} beside it in {', '.join(names)}")
        if notes:
            warnings.warn(
                f"{'; '.join(notes)}; {Path(used).name} is used. Give the file that is meant (--processor FILE, or "
                "processor= in Python) to choose.",
                stacklevel=2,
            )
        if processor.channel_order != "rgb":
            print(f"{used}: frames are given to the model in the channel order BGR.", file=sys.stderr)
        return processor

    def differences(self, other: "VideoProcessor") -> list[str]:
        """The settings of pixels in which another preprocessing differs."""
        names = (field.name for field in fields(self) if field.name != "other")
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes preprocessor_config.json into a directory, which is made if needed."""
        with write_atomically(Path(directory) / IMAGE_FILE) as file:
            file.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _is_number(value: object, kind: type[int] | type[float]) -> bool:
    allowed = (int, float) if kind is float else int
    return isinstance(value, allowed) and not isinstance(value, bool) and math.isfinite(value)


def _batch(videos: Any) -> Sequence[Clip]:
    """Makes a batch of clips from one clip or several."""
    if len(videos) == 0:
        raise VideoError("At least one clip is needed, but there is none.")
    one_clip = videos.ndim == 4 if isinstance(videos, np.ndarray) else _is_frame(videos[0])
    return [videos] if one_clip else list(videos)


def _is_frame(value: object) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, np.ndarray) and value.ndim == 3)


def _to_rgb(frame: Frame) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(frame, Image.Image):
        return np.asarray(frame.convert("RGB"))
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise VideoError(
            f"A frame of shape {frame.shape} and type {frame.dtype} can't be processed: "
            "frames are uint8 RGB, (h, w, 3)."
        )
    return frame
