"""Maps laid over frames: a weight for each patch becomes a colour over its place."""

import dataclasses
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

COLOURS = "inferno"
_STRENGTH = 0.6
"""Of the colours against the frame beneath, from 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """What the colours stand for, the same in all frames of a clip.

    Attributes:
        lowest: value of the darkest colour.
        highest: value of the brightest colour.
        label: what the values are, for the colour bar.
    """

    lowest: float
    highest: float
    label: str

    @classmethod
    def of(cls, maps: Float[np.ndarray, "..."], label: str) -> "Scale":
        """From the smallest to the largest value."""
        lowest, highest = float(np.min(maps)), float(np.max(maps))
        if highest - lowest <= 1e-6 * abs(highest):  # flat but for rounding, which must not be made to look like more
            lowest, highest = min(0.0, lowest), max(highest, lowest + 1e-6)
        return cls(lowest, highest, label)

    def colours(self, values: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
        """The colour of each value."""
        colour_map: Any = matplotlib.colormaps[COLOURS]
        return colour_map((values - self.lowest) / (self.highest - self.lowest), bytes=True)[..., :3]


def enlarge(frames: UInt8[np.ndarray, "t h w 3"], height: int) -> UInt8[np.ndarray, "t big_h big_w 3"]:
    """Small frames, each pixel as a square of several, at least so high: colours laid over them come out smooth."""
    factor = max(1, -(-height // frames.shape[1]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def overlay(
    frames: UInt8[np.ndarray, "t h w 3"], maps: Float[np.ndarray, "t rows columns"], scale: Scale
) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames with the colours of their maps, smoothly from patch to patch."""
    size = frames.shape[2], frames.shape[1]
    smooth = [
        np.asarray(Image.fromarray(one.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)) for one in maps
    ]
    colours = scale.colours(np.stack(smooth))
    return np.round((1 - _STRENGTH) * frames + _STRENGTH * colours).astype(np.uint8)
