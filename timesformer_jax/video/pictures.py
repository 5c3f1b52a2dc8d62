"""Videos that are kept as pictures, one for each frame."""

import contextlib
import io
import itertools
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps

from ..errors import VideoError
from .in_order import Frames, Rule, nearest_earlier, warn_of_damage
from .picture_series import Series, choose_series, match_template

logger = logging.getLogger("timesformer_jax")

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class Pictures:
    """A video as pictures, one for each frame.

    Where there are several series of them, such as frames beside optical flow, the one that is meant is taken (see
    `picture_series`).

    Attributes:
        name: what messages call it.
        names: of the pictures, in any order; they are taken in natural order (2.jpg before 10.jpg).
        read: gives the contents of the picture file of a name; may raise OSError.
        template: the names of the frames, such as "img_{:05d}.jpg"; None where the names tell the series.
    """

    name: str
    names: tuple[str, ...]
    read: Callable[[str], bytes] = field(repr=False)
    template: str | None = None

    @classmethod
    def in_folder(cls, folder: str | os.PathLike[str], template: str | None = None) -> "Pictures":
        """The pictures in a folder on this machine.

        Raises:
            VideoError: the folder can't be read.
            ConfigError: the template has no field for a number, or several.
        """
        if template is not None:
            match_template(template, ())
        directory = Path(folder)
        try:
            files = [path.name for path in directory.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
        except PermissionError as error:
            raise VideoError(f"{directory} can't be read: permission denied.") from error
        except OSError as error:
            raise VideoError(f"{directory} can't be read: {error.strerror or error}.") from error
        names = tuple(name for name in files if name[0] != ".")
        return cls(str(directory), names, lambda name: (directory / name).read_bytes(), template)

    def __str__(self) -> str:
        return self.name

    def series(self) -> Series:
        """The pictures that are the video's frames, in order; what is left out is logged as a warning, once for a kind.

        Raises:
            VideoError: there is none, or which of several series is meant can't be told.
        """
        if not self.names:
            raise VideoError(f"{self.name} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}).")
        if self.template is not None:
            return match_template(self.template, self.names, self.name)
        chosen, left_out = choose_series(self.name, self.names, self.is_in_colour)
        if left_out:
            _say_once(self.name, f"the pictures {chosen.template} are the video; left out: {left_out}")
        return chosen

    def is_in_colour(self, name: str) -> bool:
        """Whether a picture shows colours."""
        picture = load_picture(self, name)
        return picture is not None and bool((np.ptp(picture, axis=-1) > 8).mean() > 0.001)


def open_pictures(video: str | os.PathLike[str], template: str | None) -> str | os.PathLike[str] | Pictures:
    """A video for `read_clip`: of a folder, where a template is given, the pictures that it names.

    Raises:
        ConfigError: the template has no field for a number, or several.
    """
    if template is not None:
        match_template(template, ())
        with contextlib.suppress(VideoError):  # whoever reads it is told
            return Pictures.in_folder(video, template) if Path(video).is_dir() else video
    return video


def read_pictures(pictures: Pictures, rule: Rule) -> tuple[Frames, Int64[np.ndarray, "..."]]:
    """Reads the frames that a rule chooses; the nearest earlier ones stand in for those that can't be read.

    Returns:
        Frames by their index; the indices that the rule gave, or their stand-ins.
    """
    names = pictures.series().names
    keys = rule(len(names), None)
    wanted = np.unique(keys).tolist()
    frames = {i: picture for i in wanted if (picture := load_picture(pictures, names[i])) is not None}
    if len(frames) < len(wanted):
        readable = [i for i, name in enumerate(names) if load_picture(pictures, name) is not None]
        if not readable:
            raise VideoError(f"No picture in {pictures} can be read.")
        warn_of_damage(pictures, len(readable), len(names))
        keys = np.array(readable)[nearest_earlier(np.array(readable), keys)]
        chosen = np.unique(keys).tolist()
        frames = {i: picture for i in chosen if (picture := load_picture(pictures, names[i])) is not None}
    first, *others = frames
    for other in others:
        if frames[other].shape != frames[first].shape:
            sizes = ", ".join(f"{names[i]} {frames[i].shape[1]}x{frames[i].shape[0]}" for i in (first, other))
            raise VideoError(f"The pictures in {pictures} differ in size ({sizes}): a video's frames have one size.")
    return frames, keys


def load_picture(pictures: Pictures, name: str) -> UInt8[np.ndarray, "h w 3"] | None:
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


@lru_cache(maxsize=64)
def _first_time(_: str) -> Iterator[bool]:
    return itertools.chain([True], itertools.repeat(False))


def _say_once(folder: str, choice: str) -> None:
    """Logs a warning for the first of many folders for which the same was chosen."""
    if next(_first_time(choice)):
        logger.warning("%s: %s", folder, choice)
