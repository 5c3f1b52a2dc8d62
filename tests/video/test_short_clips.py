"""Videos that are no longer than a clip: a clip is taken as it is, pictures are spread over it, and it is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_flax import tiny_flax
from videos import moving_pictures, write_video

from timesformer_jax import VideoClassifier, VideoProcessor
from timesformer_jax.data.clips import frame_indices, read_clips
from timesformer_jax.data.config import ClipShape
from timesformer_jax.interpret.video_encoder import VideoEncoder
from timesformer_jax.video.reading import read_by_rule, read_clip
from timesformer_jax.video.sampling import SlidingWindows, clip_indices, spread_clips, spread_indices

FRAMES = moving_pictures(40, 16, 24)


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i, frame in enumerate(FRAMES[:count]):
        Image.fromarray(frame).save(folder / f"{i:03d}.png")
    return folder


RULES: dict[str, Any] = {
    "middle": lambda total, frames: clip_indices(total, None, frames, 32),
    "whole": lambda total, frames: spread_indices(total, None, frames),
    "several": lambda total, frames: spread_clips(total, None, frames, 32, 3)[2],
    "windows": lambda total, frames: SlidingWindows(frames, 32).indices(total, None)[0],
    "training": lambda total, frames: frame_indices(total, None, ClipShape(frames, 8, 8, 32), np.full(frames, 0.7)),
    "evaluation": lambda total, frames: frame_indices(
        total, None, ClipShape(frames, 8, 8, "segments"), np.full(frames, 0.5)
    ),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("frames", [1, 4, 8, 16])
def test_pictures_of_a_clip_are_the_clip(rule: str, frames: int) -> None:
    np.testing.assert_array_equal(RULES[rule](frames, frames), np.arange(frames))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("total", [1, 2, 3, 5, 7])
def test_fewer_pictures_repeat_evenly(rule: str, total: int) -> None:
    indices = RULES[rule](total, 8)
    counts = np.bincount(indices, minlength=total)
    assert (np.diff(indices) >= 0).all()
    if rule == "evaluation":  # by the original's segments, whose first and last are half as long
        assert counts.min() >= 1
        assert counts.max() < 8 or total == 1
    else:
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("rule", ["middle", "several", "windows", "training"])
@pytest.mark.parametrize("total", [9, 16, 100, 255])
def test_pictures_shorter_than_the_span_are_spread(rule: str, total: int) -> None:
    indices = RULES[rule](total, 8)
    assert (indices[0], indices[-1]) == (0, total - 1)
    steps = np.diff(indices)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


def test_a_video_file_keeps_the_original_rule() -> None:
    assert clip_indices(8, 30.0, 8, 32).tolist() == [0, 7, 7, 7, 7, 7, 7, 7]
    assert clip_indices(100, 25.0, 4, 32).tolist() == [0, 35, 70, 99]
    assert spread_indices(3, 30.0, 5).tolist() == [0, 1, 2, 2, 2]
    assert frame_indices(8, 30.0, ClipShape(8, 8, 8, 32), np.zeros(8)).tolist() == [0, 7, 7, 7, 7, 7, 7, 7]


def test_a_start_inside_the_pictures_is_kept() -> None:
    assert clip_indices(100, None, 5, 32, start=80).tolist() == [80, 84, 89, 94, 99]
    assert clip_indices(100, None, 5, 32, start=98).tolist() == [98, 98, 98, 99, 99]
    assert clip_indices(100, None, 5, 32, start=500).tolist() == [99] * 5


@pytest.mark.parametrize(
    ("count", "rate", "said"),
    [
        (8, 32, "has exactly the 8 frames of a clip: they are taken as they are."),
        (8, None, "has exactly the 8 frames of a clip: they are taken as they are."),
        (3, 32, "has fewer frames (3) than the 8 of a clip: they are repeated evenly."),
        (1, None, "has fewer frames (1) than the 8 of a clip: they are repeated evenly."),
        (
            16,
            32,
            "has 16 frames of unknown rate, fewer than the 256 that a clip spans: its 8 frames are spread over them.",
        ),
        (40, 4, None),
        (9, None, None),
    ],
)
def test_it_is_said(
    count: int, rate: float | None, said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = pictures(tmp_path / "v", count)
    clip = read_clip(folder, 8, sampling_rate=rate)
    np.testing.assert_array_equal(read_clip(FRAMES[:count], 8, sampling_rate=rate), clip)
    if count == 8:
        np.testing.assert_array_equal(clip, FRAMES[:8])
    names = (str(folder), f"An array of {count} frames")
    assert [record.getMessage() for record in caplog.records] == (
        [] if said is None else [f"{n} {said}" for n in names]
    )


def test_a_short_video_file_is_said_where_a_person_asks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_video(tmp_path / "a.mkv", FRAMES[:12], fps=24)
    message = f"{file} lasts 0.50 seconds (12 frames), less than the 8.53 of a clip: the last frame is repeated."
    read_clip(file, 8, sampling_rate=32)
    read_by_rule(file, lambda total, fps: spread_clips(total, fps, 8, 32, 3), said_of=(8, 32))
    assert [record.getMessage() for record in caplog.records] == [message] * 2
    caplog.clear()
    read_clip(file, 13)
    assert "12 frames), less than the 0.54 of a clip: the last frame is repeated." in caplog.text
    caplog.clear()
    read_clip(file, 3, sampling_rate=4)
    read_clips(file, ClipShape(8, 8, 8, 32), np.zeros(8))  # training
    assert caplog.text == ""


def test_classifier_and_encoder_take_a_clip_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model, params = tiny_flax("divided_space_time", dtype="float32", sampling_rate=32)
    processor = VideoProcessor(size=8, crop_size=model.config.image_shape)
    classify = VideoClassifier.from_model(model, params, processor)
    clip = FRAMES[[2, 17, 31]]
    expected = classify.forward(classify.prepare(clip)[None])[0]
    np.testing.assert_array_equal(classify.logits(clip)[0], expected)
    # The same clip thrice: a mean of equal numbers.
    np.testing.assert_allclose(classify.logits(clip, clips=3)[0], expected, rtol=1e-5)
    (window,) = classify.windows(clip).windows
    np.testing.assert_allclose(window.logits, expected, rtol=1e-5)
    said = "An array of 3 frames has exactly the 3 frames of a clip: they are taken as they are."
    assert [record.getMessage() for record in caplog.records] == [said] * 3
    encoder = VideoEncoder(model, params, processor, "tiny")
    np.testing.assert_array_equal(encoder.read(clip), processor.resize_and_crop(clip))
