"""Colours: the matrix and range that a file tells, against the formulas of ITU-R BT.601 and BT.709."""

from pathlib import Path

import av
import numpy as np
import pytest
from videos import ffmpeg, moving_pictures, write_video

from timesformer_jax import read_frames

SHARES = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114), "bt470bg": (0.299, 0.114)}
"""Of red and of blue in the luma (ITU-R BT.709-6 and BT.601-7)."""


def formula(y: np.ndarray, u: np.ndarray, v: np.ndarray, matrix: str, full: bool) -> np.ndarray:
    red, blue = SHARES[matrix]
    luma = y / 255 if full else (y - 16) / 219
    pb, pr = ((plane - 128) / (255 if full else 224) for plane in (u, v))
    r, b = luma + 2 * (1 - red) * pr, luma + 2 * (1 - blue) * pb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], axis=-1) * 255, 0, 255)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", SHARES)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_matrix_and_range(name: str, matrix: str, full: bool, tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mkv", moving_pictures(3, 48, 64), codec="ffv1", pix_fmt="bgr0")
    path = tmp_path / name
    span = "pc" if full else "tv"
    convert = f"scale=out_color_matrix={matrix}:out_range={span},format=yuv444p"
    tags = ["-colorspace", matrix, "-color_range", span]
    ffmpeg("-i", source, "-vf", convert, "-c:v", "libx264", "-qp", "0", *tags, path)
    with av.open(str(path)) as container:
        planes = [frame.to_ndarray().astype(float) for frame in container.decode(video=0)]
    expected = np.stack([formula(*frame, matrix, full) for frame in planes])
    found = read_frames(path, range(3)).astype(float)
    # Fixed-point arithmetic is off by one or two of 255; another matrix or range by more than 2 on average.
    assert np.abs(found - expected).mean() < 1
    assert np.abs(found - expected).max() <= 3
    for other in (
        {"matrix": "bt709" if matrix != "bt709" else "bt470bg", "full": full},
        {"matrix": matrix, "full": not full},
    ):
        wrong = np.stack([formula(*frame, **other) for frame in planes])
        assert np.abs(wrong - expected).mean() > 2, "the picture would not tell them apart"
    original = moving_pictures(3, 48, 64).astype(float)
    assert np.abs(found - original).mean() < 1.5


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
def test_halved_colours_are_those_of_ffmpeg(matrix: str, tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mkv", moving_pictures(3, 48, 64), codec="ffv1", pix_fmt="bgr0")
    path = tmp_path / "a.mp4"
    tags = ["-colorspace", matrix, "-color_range", "tv", "-color_primaries", matrix, "-color_trc", matrix]
    ffmpeg(
        "-i",
        source,
        "-vf",
        f"scale=out_color_matrix={matrix},format=yuv420p",
        "-c:v",
        "libx264",
        "-qp",
        "0",
        *tags,
        path,
    )
    raw = ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    expected = np.frombuffer(raw, np.uint8).reshape(3, 48, 64, 3).astype(float)
    assert np.abs(read_frames(path, range(3)) - expected).mean() < 1.5
