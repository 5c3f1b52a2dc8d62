"""Animated WebP, which FFmpeg reads from version 9 on only: its frames by Pillow, their times from the file's chunks.

A file is a RIFF of chunks (developers.google.com/speed/webp/docs/riff_container); each frame is one chunk, ANMF.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

from ..errors import VideoError
from .in_order import Frames, Rule, nearest_earlier, warn_of_damage
from .packets import EncodedVideo, VideoFile

_ANIMATED = 2
"""The bit of the flags of a VP8X chunk."""


@dataclass(frozen=True)
class Animation:
    """An animated WebP file in memory.

    Attributes:
        name: what messages call it.
        data: its bytes.
        seconds: when each frame is shown, and last, when the last one ends.
    """

    name: str
    data: bytes
    seconds: Float64[np.ndarray, " n"]

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.seconds) - 1

    @property
    def fps(self) -> float | None:
        """Mean frames a second; None where the file tells no durations."""
        return self.count / float(self.seconds[-1]) if self.seconds[-1] else None

    def decode(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Yields the frames whose numbers are wanted, in order, up to the first that can't be decoded."""
        try:
            with Image.open(io.BytesIO(self.data)) as image:
                for number in range(self.count):
                    image.seek(number)
                    image.load()  # each frame is drawn over those before it
                    if wanted(number):
                        yield number, np.asarray(image.convert("RGB"))
        except (OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError):
            return


def open_animation(file: VideoFile) -> Animation | None:
    """Reads an animated WebP file into memory; None if the file is none.

    Raises:
        VideoError: none of its frames is there.
    """
    if isinstance(file, EncodedVideo):
        data = file.data
    else:
        if not Path(file).is_file():  # a pipe would be waited for; open_video says what is wrong
            return None
        with Path(file).open("rb") as opened:
            data = opened.read(21)
            data += opened.read() if _is_animated(data) else b""
    if not _is_animated(data):
        return None
    durations = _durations(data)
    if not durations:
        raise VideoError(f"{file} holds no video frames; it may be damaged or cut short.")
    return Animation(str(file), data, np.cumsum([0, *durations]) / 1000)


def read_animation(animation: Animation, rule: Rule) -> tuple[Frames, Int64[np.ndarray, "..."]]:
    """Gives what `read_file` gives of other files."""
    keys = rule(animation.count, animation.fps)
    frames = dict(animation.decode(set(keys.ravel().tolist()).__contains__))
    if frames.keys() >= set(keys.ravel().tolist()):
        return frames, keys
    readable = [number for number, _ in animation.decode(lambda _: True)]
    if not readable:
        raise VideoError(f"No frame of {animation.name} could be decoded; the file is damaged.")
    warn_of_damage(animation.name, len(readable), animation.count)
    keys = np.array(readable)[nearest_earlier(np.array(readable), keys)]
    return dict(animation.decode(set(keys.ravel().tolist()).__contains__)), keys


def _is_animated(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) > 20 and bool(data[20] & _ANIMATED)


def _durations(data: bytes) -> list[int]:
    """The milliseconds of each frame that is there as a whole."""
    durations: list[int] = []
    place = 12
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"ANMF" and place + 8 + size <= len(data):
            # After place and size of the picture, three bytes each.
            durations.append(int.from_bytes(data[place + 20 : place + 23], "little"))
        place += 8 + size + size % 2
    return durations
