"""Animated WebP: frames, times and damage."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import ffmpeg, moving_pictures

from timesformer_jax import probe, read_clip, read_frames
from timesformer_jax.errors import VideoError
from timesformer_jax.video.notices import DamagedVideoWarning
from timesformer_jax.video.packets import EncodedVideo
from timesformer_jax.video.reading import read_by_rule
from timesformer_jax.video.streaming import stream_clips

FRAMES = moving_pictures(12, 32, 48)


def write(path: Path, durations: int | list[int], frames: np.ndarray = FRAMES) -> Path:
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=durations, lossless=True)
    return path


@pytest.mark.parametrize(
    ("durations", "fps"), [(100, 10), (40, 25), ([50] * 6 + [150] * 6, 10)], ids=["10", "25", "variable"]
)
def test_frames_and_times(durations: int | list[int], fps: float, tmp_path: Path) -> None:
    path = write(tmp_path / "a.webp", durations)
    info = probe(path)
    assert (info.frames, info.fps, info.height, info.width) == (12, pytest.approx(fps), 32, 48)
    some = np.array([[0, 11], [5, 5]])
    np.testing.assert_array_equal(read_frames(path, some), FRAMES[some])
    in_memory = EncodedVideo("a.webp", path.read_bytes())
    np.testing.assert_array_equal(read_by_rule(in_memory, lambda *_: np.arange(12)), FRAMES)
    times: list[np.ndarray] = []
    rows = np.array([[0, 3], [2, 7], [7, 11]])
    np.testing.assert_array_equal(list(stream_clips(path, lambda *_: rows, np.copy, times.append)), FRAMES[rows])
    each = [durations] * 12 if isinstance(durations, int) else durations
    np.testing.assert_allclose(times[0], np.cumsum([0, *each]) / 1000)


def test_what_ffmpeg_writes(tmp_path: Path) -> None:
    """FFmpeg writes the part of a frame that has changed, and equal frames once; from version 9 on it can read them."""
    path = tmp_path / "a.webp"
    source = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=12", "-frames:v", "9")
    ffmpeg(*source, "-c:v", "libwebp_anim", "-lossless", "1", path)
    raw = ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    expected = np.frombuffer(raw, np.uint8).reshape(-1, 48, 64, 3)
    info = probe(path)
    assert info.frames == len(expected)
    assert info.duration == pytest.approx(9 / 12, abs=0.01)
    np.testing.assert_array_equal(read_frames(path, range(len(expected))), expected)


def test_a_still_is_one_frame(tmp_path: Path) -> None:
    Image.fromarray(FRAMES[0]).save(tmp_path / "a.webp", lossless=True)
    assert probe(tmp_path / "a.webp").frames == 1
    np.testing.assert_allclose(read_clip(tmp_path / "a.webp", 2)[1], FRAMES[0], atol=0)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.6, 0.99])
def test_a_file_cut_short(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "a.webp", 100)
    data = path.read_bytes()
    path.write_bytes(data[: max(int(share * len(data)), 30)])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedVideoWarning)
            assert read_clip(path, 3).shape == (3, 32, 48, 3)
    except VideoError as error:
        assert str(path) in str(error)  # noqa: PT017


def test_damage_within(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), np.uint8)
    path = write(tmp_path / "a.webp", 100, noise)
    data = bytearray(path.read_bytes())
    place = [i for i in range(len(data)) if data[i : i + 4] == b"ANMF"][8]
    data[place + 60 : place + 1060] = bytes(1000)
    path.write_bytes(data)
    with pytest.warns(DamagedVideoWarning, match=r"a\.webp is damaged: 8 of 12 frames"):
        clip = read_frames(path, [2, 7, 10])
    np.testing.assert_array_equal(clip, noise[[2, 7, 7]])
