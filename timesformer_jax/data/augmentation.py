"""RandAugment and random erasing, which change the pixels of a training clip in all of its frames alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from .config import Augmentation

Clip = UInt8[np.ndarray, "t h w 3"]

GRAY = (128, 128, 128)
"""The colour that fills what a moved frame leaves empty."""

STRONGEST = 10.0
"""The magnitude at which an operation does its utmost."""


def augment_clip(frames: Clip, augmentation: Augmentation, rng: np.random.Generator) -> Clip:
    """Applies RandAugment and random erasing as far as the settings ask for them."""
    if augmentation.rand_augment_layers:
        frames = rand_augment(frames, augmentation, rng)
    if augmentation.erasing and rng.random() < augmentation.erasing:
        frames = erase(frames, rng)
    return frames


def erase(
    frames: Clip, rng: np.random.Generator, area: tuple[float, float] = (0.02, 0.33), aspect: float = 10 / 3
) -> Clip:
    """Replaces a random rectangle by noise, the same in all frames (Zhong et al., 2020).

    Args:
        frames: the clip; it is not changed.
        rng: generator that draws the rectangle and the noise.
        area: smallest and largest share of the picture.
        aspect: how much longer one side of the rectangle may be than the other.
    """
    height, width = frames.shape[1:3]
    for _ in range(100):  # an unlucky shape may not fit
        share = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(-math.log(aspect), math.log(aspect)))
        rows, columns = round(math.sqrt(share * ratio)), round(math.sqrt(share / ratio))
        if 0 < rows <= height and 0 < columns <= width:
            break
    else:
        return frames
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    erased = frames.copy()
    erased[:, top : top + rows, left : left + columns] = rng.integers(0, 256, (rows, columns, 3), np.uint8)
    return erased


def rand_augment(frames: Clip, augmentation: Augmentation, rng: np.random.Generator) -> Clip:
    """Applies random operations of random strength, the same to all frames (Cubuk et al., 2020)."""
    for number in rng.integers(len(OPERATIONS), size=augmentation.rand_augment_layers):
        magnitude = rng.normal(augmentation.rand_augment_magnitude, augmentation.rand_augment_deviation)
        level = float(np.clip(magnitude, 0, STRONGEST)) / STRONGEST
        operation = OPERATIONS[number](level, -1 if rng.random() < 0.5 else 1)
        frames = np.stack([np.asarray(operation(Image.fromarray(frame))) for frame in frames])
    return frames


Operation = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class _Enhance:
    """Moves away from a gray, dark, smooth or pale version of the picture, or towards it: 1 leaves it as it is."""

    kind: Callable[[Image.Image], ImageEnhance._Enhance]  # pyright: ignore[reportPrivateUsage]

    def __call__(self, level: float, sign: int) -> Operation:
        return lambda image: self.kind(image).enhance(max(1 + 0.9 * level * sign, 0.1))


@dataclass(frozen=True)
class _Affine:
    """Shears or shifts by changing one number, at `place`, in Pillow's affine matrix.

    A shift is a share of the side, a shear a slope.
    """

    place: int
    strongest: float

    def __call__(self, level: float, sign: int) -> Operation:
        def apply(image: Image.Image) -> Image.Image:
            matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
            side = {2: image.width, 5: image.height}.get(self.place, 1)
            matrix[self.place] = self.strongest * level * sign * side
            bilinear = Image.Resampling.BILINEAR
            return image.transform(image.size, Image.Transform.AFFINE, tuple(matrix), bilinear, fillcolor=GRAY)

        return apply


def _rotate(level: float, sign: int) -> Operation:
    return lambda image: image.rotate(30 * level * sign, Image.Resampling.BILINEAR, fillcolor=GRAY)


def _posterize(level: float, sign: int) -> Operation:
    return lambda image: ImageOps.posterize(image, 8 - round(4 * level))


def _solarize(level: float, sign: int) -> Operation:
    return lambda image: ImageOps.solarize(image, round(256 * (1 - level)))


def _brighten_shadows(level: float, sign: int) -> Operation:
    """Adds to what is darker than the middle ("SolarizeAdd")."""
    table = [min(value + round(110 * level), 255) if value < 128 else value for value in range(256)] * 3
    return lambda image: image.point(table)


OPERATIONS: tuple[Callable[[float, int], Operation], ...] = (
    lambda level, sign: ImageOps.autocontrast,
    lambda level, sign: ImageOps.equalize,
    lambda level, sign: ImageOps.invert,
    _rotate,
    _posterize,
    _solarize,
    _brighten_shadows,
    _Enhance(ImageEnhance.Color),
    _Enhance(ImageEnhance.Contrast),
    _Enhance(ImageEnhance.Brightness),
    _Enhance(ImageEnhance.Sharpness),
    _Affine(1, 0.3),
    _Affine(3, 0.3),
    _Affine(2, 0.45),
    _Affine(5, 0.45),
)
"""What RandAugment chooses from: each makes a function of pictures from a level from 0 (weak) to 1 and a sign."""
