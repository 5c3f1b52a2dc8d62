"""Which frames and which part of them a clip shows, against the plain way to compute it."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import moving_pictures, write_video

from timesformer_jax.data.clips import crop_and_resize, frame_indices, random_crop, read_clips, uniform_crops
from timesformer_jax.data.config import Augmentation, ClipShape
from timesformer_jax.video.reading import read_frames
from timesformer_jax.video.sampling import clip_indices, evenly_spread_indices

CLIP = ClipShape(5, 20, 20, 4)
SEGMENTS = ClipShape(5, 20, 20, "segments")


def positions(value: float, frames: int = 5) -> np.ndarray:
    return np.full(frames, value)


def test_a_clip_begins_anywhere_that_its_span_allows() -> None:
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(300):
        where = rng.random(5)
        indices = frame_indices(30, 30.0, CLIP, where)
        assert indices.tolist() == [int(where[0] * 10 + 4.75 * i) for i in range(5)]
        starts.add(int(indices[0]))
    assert starts == set(range(10))  # a span of 20 frames in 30


@pytest.mark.parametrize(("total", "fps"), [(300, 30.0), (300, 25.0), (100, 12.0), (7, 30.0), (1, None)])
def test_the_middle_is_that_of_inference(total: int, fps: float | None) -> None:
    np.testing.assert_array_equal(
        frame_indices(total, fps, CLIP, positions(0.5)), clip_indices(total, fps, 5, 4, "middle")
    )
    np.testing.assert_array_equal(frame_indices(total, fps, CLIP, positions(0.0)), clip_indices(total, fps, 5, 4, 0))


@pytest.mark.parametrize("total", [5, 6, 11, 37, 64, 300])
def test_the_middle_of_segments_is_that_of_inference(total: int) -> None:
    np.testing.assert_array_equal(frame_indices(total, 30.0, SEGMENTS, positions(0.5)), evenly_spread_indices(total, 5))


@pytest.mark.parametrize("total", [1, 3, 5, 12, 37])
def test_random_frames_of_segments_stay_within_them(total: int) -> None:
    rng = np.random.default_rng(0)
    borders = np.round((total - 1) / 5 * np.arange(6)).astype(int)
    drawn = np.stack([frame_indices(total, None, SEGMENTS, rng.random(5)) for _ in range(500)])
    for i in range(5):
        assert set(drawn[:, i].tolist()) == set(range(borders[i], borders[i + 1] + 1))
    assert (frame_indices(total, None, SEGMENTS, positions(1.0)) == borders[1:]).all()


def test_several_clips_are_decoded_as_one_by_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", moving_pictures(60))
    where = np.random.default_rng(0).random((3, 5))
    together = read_clips(path, CLIP, where)
    assert together.shape == (3, 5, 64, 96, 3)
    for clip, row in zip(together, where, strict=True):
        np.testing.assert_array_equal(clip, read_frames(path, frame_indices(60, 30.0, CLIP, row)))


def test_the_short_side_is_uniform_or_its_inverse_is() -> None:
    draws = np.array([0.25, 0.0, 0.0, 0.9])
    for sampling, short_side in (("size", 32), ("scale", round(1 / (1 / 40 * 0.75 + 1 / 28 * 0.25)))):
        # At 0 the largest in the one and at 1 in the other, so a quarter of the way is counted from the other end.
        augmentation = Augmentation(short_side=(28, 40), short_side_sampling=sampling)
        if sampling == "size":
            short_side = round(28 + 0.25 * 12)
        box = random_crop(60, 90, CLIP, augmentation, draws)
        assert box.bottom - box.top == pytest.approx(20 * 60 / short_side)
        assert box.right - box.left == pytest.approx(20 * 90 / math.floor(90 / 60 * short_side))
        assert (box.left, box.top, box.mirrored) == (0, 0, False)


def test_crops_lie_within_the_frame_and_reach_its_borders() -> None:
    rng = np.random.default_rng(0)
    boxes = [random_crop(60, 90, CLIP, Augmentation(), rng.random(4)) for _ in range(2000)]
    assert min(b.left for b in boxes) == min(b.top for b in boxes) == 0
    assert max(b.right for b in boxes) == pytest.approx(90)
    assert max(b.bottom for b in boxes) == pytest.approx(60)
    heights = [20 * 60 / (b.bottom - b.top) for b in boxes]
    assert round(min(heights)) == round(20 * 8 / 7)
    assert round(max(heights)) == round(20 * 10 / 7)
    assert 0.45 < np.mean([b.mirrored for b in boxes]) < 0.55
    assert not any(random_crop(60, 90, CLIP, Augmentation(flip=0), rng.random(4)).mirrored for _ in range(50))


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (50, 50), (31, 47)])
def test_a_crop_shows_what_resizing_and_cropping_shows(height: int, width: int) -> None:
    frames = moving_pictures(2, height, width)
    draws = np.array([0.4, 0.6, 0.3, 0.2])
    box = random_crop(height, width, CLIP, Augmentation(short_side=(24, 40)), draws)
    short = round(24 + 0.4 * 16)
    size = (short, width * short // height) if height < width else (height * short // width, short)
    top, left = int(0.6 * (size[0] - 19)), int(0.3 * (size[1] - 19))
    expected = np.stack(
        [
            np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))[
                top : top + 20, left : left + 20
            ][:, ::-1]
            for frame in frames
        ]
    )
    # Pillow rounds the weights of a box that does not begin at a whole pixel otherwise.
    assert np.abs(crop_and_resize(frames, box, 20, 20).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60)])
def test_three_crops_are_left_centre_and_right_along_the_long_side(height: int, width: int) -> None:
    frames = moving_pictures(2, height, width)
    resized = np.stack(
        [np.asarray(Image.fromarray(f).resize((30, 20) if width > height else (20, 30), 2)) for f in frames]
    )
    for crops, offsets in ((3, (0, 5, 10)), (1, (5,)), (2, (0, 10)), (5, (0, 3, 5, 8, 10))):
        boxes = uniform_crops(height, width, CLIP, crops)
        assert len(boxes) == crops
        for box, offset in zip(boxes, offsets, strict=True):
            part = slice(offset, offset + 20)
            expected = resized[:, :, part] if width > height else resized[:, part]
            assert np.abs(crop_and_resize(frames, box, 20, 20).astype(int) - expected).max() <= 2


def test_a_crop_that_is_no_square_lies_within_the_frame() -> None:
    clip = ClipShape(2, 20, 32, 4)
    frames = moving_pictures(2, 60, 60)
    for box in (*uniform_crops(60, 60, clip, 3), random_crop(60, 60, clip, Augmentation(), np.full(4, 0.999))):
        assert min(box.left, box.top) >= 0
        assert max(box.right, box.bottom) <= 60 + 1e-9
        assert (box.right - box.left) / (box.bottom - box.top) == pytest.approx(1.6, rel=0.05)
        assert crop_and_resize(frames, box, 20, 32).shape == (2, 20, 32, 3)
