"""Frames and maps side by side in motion: animated GIF and MP4."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from ..support.files import write_atomically
from ..video.writing import write_video
from .overlay import Scale, enlarge, overlay

_HEIGHT = 224
"""Of the frames in an animation, in pixels, at least; smaller ones are enlarged."""

_TEXT, _MARGIN, _BAR = 16, 12, 16


def write_animation(
    path: Path,
    frames: UInt8[np.ndarray, "t h w 3"],
    maps: Float[np.ndarray, "t rows columns"],
    scale: Scale,
    title: str,
    frames_per_second: int | None = None,
) -> None:
    """Writes each frame beside itself with its map laid over it, with a title and the scale.

    Args:
        path: ends in .gif or .mp4.
        frames: of the clip, as the model sees them.
        maps: a weight for each patch.
        scale: of the colours.
        title: stands above; the number of the frame is added.
        frames_per_second: None lets the clip last about four seconds.
    """
    frames = enlarge(frames, _HEIGHT)
    pictures = [
        _picture(frame, laid_over, scale, f"{title}, frame {i + 1} of {len(frames)}")
        for i, (frame, laid_over) in enumerate(zip(frames, overlay(frames, maps, scale), strict=True))
    ]
    rate = frames_per_second or int(np.clip(len(frames) // 4, 2, 24))
    with write_atomically(path) as temporary:
        if path.suffix == ".gif":
            first, *others = map(_few_colours, pictures)
            first.save(temporary, save_all=True, append_images=others, duration=round(1000 / rate), loop=0)
        else:
            write_video(temporary, np.stack([np.asarray(picture) for picture in pictures]), rate)


def _few_colours(picture: Image.Image) -> Image.Image:
    # Twice: Pillow scatters the error of the colours only where the palette is given.
    return picture.quantize(palette=picture.quantize(255), dither=Image.Dither.FLOYDSTEINBERG)


def _picture(frame: np.ndarray, laid_over: np.ndarray, scale: Scale, title: str) -> Image.Image:
    height, width = frame.shape[:2]
    font = ImageFont.load_default(_TEXT)
    labels = [f"{value:.3g}" for value in (scale.highest, scale.lowest)]
    label_width = max(int(np.ceil(font.getlength(label))) for label in labels)
    text_width = int(np.ceil(max(font.getlength(text) for text in (title, scale.label))))
    line = _TEXT + _MARGIN
    right = 3 * _MARGIN + 2 * width
    # Even sides: video codecs halve the resolution of colours.
    whole_width = max(right + _BAR + _MARGIN // 2 + label_width, _MARGIN + text_width) + _MARGIN
    whole_height = height + 2 * line + _MARGIN
    picture = Image.new("RGB", (whole_width + whole_width % 2, whole_height + whole_height % 2), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN // 2), title, "black", font)
    for i, side in enumerate((frame, laid_over)):
        picture.paste(Image.fromarray(side), (_MARGIN + i * (width + _MARGIN), line))
    values = np.linspace(scale.highest, scale.lowest, height)[:, None].repeat(_BAR, axis=1)
    picture.paste(Image.fromarray(scale.colours(values)), (right, line))
    beside = right + _BAR + _MARGIN // 2
    draw.text((beside, line), labels[0], "black", font)
    draw.text((beside, line + height), labels[1], "black", font, anchor="ld")
    draw.text((_MARGIN, line + height + _MARGIN // 2), f"colours: {scale.label}", "black", font)
    return picture
