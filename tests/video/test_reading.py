"""Clips from files, directories of pictures and arrays, and clear errors for what holds none."""

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from videos import decode_everything, moving_pictures, write_sound, write_video

from timesformer_jax.errors import VideoError
from timesformer_jax.video.notices import DamagedVideoWarning
from timesformer_jax.video.reading import VideoInfo, probe, read_clip, read_frames
from timesformer_jax.video.sampling import clip_indices, evenly_spread_indices

FRAMES = moving_pictures(90, 32, 48)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "a.mkv", FRAMES, fps=25)


def write_pictures(directory: Path, frames: np.ndarray, suffix: str = ".png") -> Path:
    directory.mkdir(exist_ok=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(directory / f"frame{i}{suffix}")
    return directory


def test_probe(path: Path) -> None:
    assert probe(path) == VideoInfo(frames=90, fps=25.0, height=32, width=48)
    assert probe(path).duration == pytest.approx(3.6)
    assert probe(str(path)) == probe(path)


def test_a_clip_spread_over_the_video(path: Path) -> None:
    expected = decode_everything(path)[evenly_spread_indices(90, 7)]
    np.testing.assert_array_equal(read_clip(path, 7), expected)


def test_a_clip_at_a_rate(path: Path) -> None:
    everything = decode_everything(path)
    middle = read_clip(path, 5, sampling_rate=12)
    np.testing.assert_array_equal(middle, everything[clip_indices(90, 25.0, 5, 12)])
    np.testing.assert_array_equal(middle, everything[[20, 32, 44, 56, 69]])  # 50 frames, from 20 to 69
    from_30 = read_clip(path, 5, sampling_rate=12, start=30)
    np.testing.assert_array_equal(from_30, everything[[30, 42, 54, 66, 79]])


def test_the_last_frame_is_repeated(path: Path) -> None:
    everything = decode_everything(path)
    np.testing.assert_array_equal(read_clip(path, 95)[85:], everything[[85, 86, 87, 88, 89, 89, 89, 89, 89, 89]])
    np.testing.assert_array_equal(read_clip(path, 4, sampling_rate=12, start=80), everything[[80, 89, 89, 89]])
    np.testing.assert_array_equal(read_frames(path, [88, 89, 90, 5000]), everything[[88, 89, 89, 89]])


def test_several_clips_at_once(path: Path) -> None:
    indices = np.array([[3, 40, 77], [77, 3, 3]])
    clips = read_frames(path, indices)
    assert clips.shape == (2, 3, 32, 48, 3)
    np.testing.assert_array_equal(clips, decode_everything(path)[indices])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "A clip of 0 frames"),
        ({"num_frames": 8, "sampling_rate": -1.0}, "sampling_rate is -1"),
        ({"num_frames": 8, "start": 3}, "start=3 needs a sampling_rate"),
        ({"num_frames": 8, "sampling_rate": 4, "start": -3}, "can't start at frame -3"),
    ],
)
def test_numbers_that_make_no_clip(path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        read_clip(path, **arguments)


@pytest.mark.parametrize("indices", [[], [3, -1]])
def test_indices_that_are_none(path: Path, indices: list[int]) -> None:
    with pytest.raises(VideoError, match="count from 0"):
        read_frames(path, indices)


# Arrays


def test_an_array() -> None:
    np.testing.assert_array_equal(read_clip(FRAMES, 7), FRAMES[evenly_spread_indices(90, 7)])
    np.testing.assert_array_equal(read_clip(FRAMES, 5, sampling_rate=12, start=0), FRAMES[[0, 14, 29, 44, 59]])
    np.testing.assert_array_equal(read_frames(FRAMES, np.array([[5, 500]])), FRAMES[[[5, 89]]])
    assert probe(FRAMES) == VideoInfo(frames=90, fps=None, height=32, width=48)
    assert probe(FRAMES).duration is None


def test_an_array_in_gray() -> None:
    gray = FRAMES[..., 0]
    np.testing.assert_array_equal(read_frames(gray, [1, 4]), np.stack([gray[[1, 4]]] * 3, axis=-1))


def test_a_clip_of_an_array_is_a_copy() -> None:
    frames = FRAMES.copy()
    read_frames(frames, range(90))[:] = 0
    np.testing.assert_array_equal(frames, FRAMES)


@pytest.mark.parametrize(
    "array",
    [
        FRAMES.astype(np.float32),
        FRAMES.transpose(0, 3, 1, 2),
        FRAMES[None],
        FRAMES[:0],
        FRAMES[0, 0],
        np.zeros((5, 8, 8, 4), np.uint8),
    ],
)
def test_an_array_that_is_no_video(array: np.ndarray) -> None:
    with pytest.raises(VideoError, match=r"An array of shape .* and type .* is no video: uint8 frames"):
        read_clip(array, 3)


# Directories of pictures


def test_pictures_in_natural_order(tmp_path: Path) -> None:
    directory = write_pictures(tmp_path / "frames", FRAMES[:23])
    (directory / "notes.txt").write_text("not a picture")
    (directory / "._frame0.png").write_bytes(b"not one, either")
    np.testing.assert_array_equal(read_frames(directory, [0, 2, 10, 22, 30]), FRAMES[[0, 2, 10, 22, 22]])
    np.testing.assert_array_equal(read_clip(str(directory), 8), FRAMES[:23][evenly_spread_indices(23, 8)])
    assert probe(directory) == VideoInfo(frames=23, fps=None, height=32, width=48)


def test_jpegs(tmp_path: Path) -> None:
    directory = write_pictures(tmp_path / "frames", FRAMES[:5], ".JPG")
    clip = read_frames(directory, range(5))
    np.testing.assert_array_equal(clip[3], np.asarray(Image.open(directory / "frame3.JPG")))
    assert np.abs(clip.astype(float) - FRAMES[:5]).mean() < 20


def test_a_photograph_held_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn a quarter clockwise
    Image.fromarray(FRAMES[0]).save(tmp_path / "0.png", exif=exif)
    np.testing.assert_array_equal(read_frames(tmp_path, [0])[0], np.rot90(FRAMES[0], -1))


def test_kinds_of_pictures(tmp_path: Path) -> None:
    picture = Image.fromarray(FRAMES[0])
    gray = np.asarray(picture.convert("L"))
    Image.fromarray(gray).save(tmp_path / "0 gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "1 gray of 16 bits.png")
    picture.convert("RGBA").save(tmp_path / "2 alpha.png")
    picture.quantize(256).save(tmp_path / "3 palette.png")
    clip = read_frames(tmp_path, range(4))
    np.testing.assert_array_equal(clip[0], np.stack([gray] * 3, axis=-1))
    np.testing.assert_array_equal(clip[1], clip[0])
    np.testing.assert_array_equal(clip[2], FRAMES[0])
    assert np.abs(clip[3].astype(float) - FRAMES[0]).mean() < 10


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    directory = write_pictures(tmp_path / "frames", FRAMES[:12])
    whole = (directory / "frame5.png").read_bytes()
    (directory / "frame5.png").write_bytes(whole[: len(whole) // 2])
    (directory / "frame0.png").write_bytes(b"")
    (directory / "frame6.png").write_text("no picture")
    with pytest.warns(DamagedVideoWarning, match="frames is damaged: 9 of 12 frames could be read"):
        clip = read_frames(directory, [0, 3, 5, 6, 11])
    np.testing.assert_array_equal(clip, FRAMES[[1, 3, 4, 4, 11]])
    np.testing.assert_array_equal(read_frames(directory, [3, 11]), FRAMES[[3, 11]])  # without a warning


def test_pictures_of_different_sizes(tmp_path: Path) -> None:
    write_pictures(tmp_path, FRAMES[:3])
    Image.fromarray(FRAMES[3, :16]).save(tmp_path / "frame3.png")
    with pytest.raises(VideoError, match=r"differ in size \(frame1\.png 48x32, frame3\.png 48x16\)"):
        read_frames(tmp_path, [1, 3])


def test_a_directory_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match="holds no pictures"):
        read_clip(tmp_path, 8)
    Path(tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(VideoError, match=r"No picture in .* can be read"):
        read_clip(tmp_path, 8)


# Files that are no videos


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"missing\.mp4 does not exist"):
        read_clip(tmp_path / "missing.mp4", 8)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match=r"a\.mp4 is empty"):
        read_clip(tmp_path / "a.mp4", 8)


@pytest.mark.parametrize("file", ["a.mp4", "a.txt"])  # FFmpeg shows a .txt as a video of a terminal
def test_a_text_file(file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("The quick brown fox.\n" * 5000)
    with pytest.raises(VideoError, match=rf"{file} (can't be opened as a video|holds no video)"):
        read_clip(tmp_path / file, 8)


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match=r"a\.mp4 is not a file"):
        read_clip(tmp_path / "a.mp4", 8)


def test_sound_alone(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        write_sound(container, seconds=1)
    with pytest.raises(VideoError, match=r"holds no video that can be decoded \(it holds: audio\)"):
        read_clip(tmp_path / "a.mp4", 8)


@pytest.mark.parametrize("call", [(Path, "stat"), (Path, "iterdir"), (av, "open")])
def test_what_may_not_be_read(call: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    place = path.parent if call[1] == "iterdir" else path
    monkeypatch.setattr(*call, refuse)
    with pytest.raises(VideoError, match=rf"{place} can't be read: permission denied"):
        read_clip(place, 8)


@pytest.mark.parametrize("name", ["tcp:a.mkv", "frame%03d.mkv", "ein schönes Video.mkv"])
def test_names_that_mean_something_to_ffmpeg(path: Path, name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(path.read_bytes())
    assert probe(name).frames == 90


def test_a_file_is_closed_after_reading(path: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        read_clip(path, 8)
        with pytest.raises(VideoError):
            read_clip(tmp_path / "text.mp4", 8)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
