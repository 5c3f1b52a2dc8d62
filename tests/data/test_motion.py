"""Videos whose class lies in the motion alone: for arrays and files, and that nothing else tells it."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from timesformer_jax import read_clip
from timesformer_jax.data.motion import (
    OPPOSITE,
    SAMPLING_RATE,
    MotionTask,
    motion_clip,
    within_pairs,
    write_keyframes,
    write_motion,
)
from timesformer_jax.errors import DataError

ALL = MotionTask(kinds=("moving", "turning", "growing"))
# (x, y) with y pointing down
WAYS = {
    "right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1),
    "down-right": (1, 1), "up-left": (-1, -1), "up-right": (1, -1), "down-left": (-1, 1),
}  # fmt: skip


def shape_mask(frames: np.ndarray) -> np.ndarray:
    """Where the bright shape is."""
    return frames.mean(axis=-1) > 255 * 0.53


def centres(frames: np.ndarray) -> np.ndarray:
    """(x, y) of the shape in each frame, in sides of a frame."""
    mask = shape_mask(frames)
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]] / frames.shape[1]
    return np.stack([(mask * axis).sum((1, 2)) / mask.sum((1, 2)) for axis in (x, y)], axis=-1)


@pytest.mark.parametrize("options", [{}, {"equal_brightness": True}, {"distractors": 3}, {"frames": 5, "size": 32}])
def test_a_clip_played_backwards_is_the_next_clip_of_the_opposite_class(options: dict) -> None:
    task = MotionTask(kinds=ALL.kinds, **options)
    for number in range(0, 24, 2):
        forward, name = motion_clip(task, seed=1, split="train", number=number)
        backward, opposite = motion_clip(task, seed=1, split="train", number=number + 1)
        assert forward.shape == (task.frames, task.size, task.size, 3)
        assert opposite == OPPOSITE[name] != name
        np.testing.assert_array_equal(forward[::-1], backward)
        assert not np.array_equal(forward, backward)


def test_files_keep_that_to_the_last_bit(tmp_path: Path) -> None:
    write_motion(tmp_path / "set", train=16, test=8)
    for forward in (0, 6):
        clips = [
            read_clip(next((tmp_path / "set" / "train").glob(f"*/{number:05d}.mp4")), 8, sampling_rate=SAMPLING_RATE)
            for number in (forward, forward + 1)
        ]
        np.testing.assert_array_equal(clips[0][::-1], clips[1])
        written, _ = motion_clip(MotionTask(), seed=0, split="train", number=forward)
        assert np.abs(clips[0].astype(int) - written).mean() < 6


def test_the_shape_goes_where_the_class_says() -> None:
    for number in range(16):
        frames, name = motion_clip(MotionTask(), seed=3, split="test", number=number)
        steps = np.diff(centres(frames), axis=0)
        way = np.array(WAYS[name]) / np.hypot(*WAYS[name])
        along, across = steps @ way, steps @ (way[1], -way[0])
        assert (along > 0.04).all(), name
        assert np.abs(across).max() < 0.02, name


def test_growing_grows_and_clockwise_is_clockwise() -> None:
    for number in range(6):
        frames, _ = motion_clip(MotionTask(kinds=("growing",)), seed=3, split="test", number=2 * number)
        assert (np.diff(shape_mask(frames).sum((1, 2))) > 0).all()
    turned = []
    for number in range(12):
        frames, name = motion_clip(MotionTask(kinds=("turning",)), seed=3, split="test", number=2 * number)
        assert name == "clockwise"
        x, y = centres(frames).mean(axis=0) * 64
        angles = np.arange(180) * np.pi / 90
        radii = np.arange(2, 8)[:, None]
        # y points down: the angle grows clockwise.
        rows, columns = np.rint(y + radii * np.sin(angles)).astype(int), np.rint(x + radii * np.cos(angles)).astype(int)
        around = frames[:, rows, columns].astype(float)
        around -= around.mean(axis=2, keepdims=True)
        shifts = range(-20, 21)
        likeness = [(np.roll(around[:-1], shift, axis=2) * around[1:]).sum() for shift in shifts]
        turned.append(shifts[int(np.argmax(likeness))])
    assert np.median(turned) > 2


def test_where_the_shape_is_on_average_does_not_tell_the_class() -> None:
    places: dict[str, list[np.ndarray]] = {name: [] for name in WAYS}
    looks: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(480):
        frames, name = motion_clip(MotionTask(size=32), seed=5, split="train", number=number)
        places[name].append(centres(frames).mean(axis=0))
        looks[name].append(frames.mean())
    overall = np.mean([np.mean(of_class, axis=0) for of_class in places.values()], axis=0)
    for name in WAYS:  # the middle is uniform over at most 0.2: 60 of them have a deviation below 0.008
        assert np.abs(np.mean(places[name], axis=0) - overall).max() < 0.03
        assert abs(np.mean(looks[name]) - np.mean(list(looks.values()))) < 8


def test_splits_seeds_and_numbers_share_no_clip_and_the_same_ones_are_equal() -> None:
    clips = [
        motion_clip(MotionTask(size=16), seed=seed, split=split, number=number)[0]
        for seed, split, number in itertools.product((0, 1), ("train", "test"), range(0, 32, 2))
    ]
    flat = np.stack(clips).reshape(len(clips), -1).astype(int)
    distance = np.abs(flat[:, None] - flat[None]).mean(axis=-1) + 1000 * np.eye(len(clips))
    assert distance.min() > 2
    np.testing.assert_array_equal(clips[0], motion_clip(MotionTask(size=16), seed=0, split="train", number=0)[0])


def test_equal_brightness_and_distractors() -> None:
    def contrast(task: MotionTask) -> float:
        clips = [motion_clip(task, seed=0, split="train", number=2 * i)[0] for i in range(40)]
        return abs(float(np.mean([clip.max(0).mean() - clip.min(0).mean() for clip in clips])))

    assert contrast(MotionTask(equal_brightness=True)) < 0.6 * contrast(MotionTask())
    plain, _ = motion_clip(MotionTask(), seed=0, split="train", number=0)
    crowded, name = motion_clip(MotionTask(distractors=4), seed=0, split="train", number=0)
    assert name == "right"
    assert (shape_mask(crowded).sum() > 1.3 * shape_mask(plain).sum()).all()


def test_a_data_set_of_class_folders(tmp_path: Path) -> None:
    write_motion(tmp_path / "set", ALL, train=24, test=12, seed=4)
    for split, count in (("train", 24), ("test", 12)):
        files = sorted((tmp_path / "set" / split).glob("*/*.mp4"))
        assert len(files) == count
        assert {file.parent.name for file in files} == set(OPPOSITE)
    assert (tmp_path / "set" / "motion.json").exists()
    with pytest.raises(DataError, match="exists already"):
        write_motion(tmp_path / "set", ALL, train=24, test=12)
    write_motion(tmp_path / "set", train=8, test=8, overwrite=True)
    assert len(list((tmp_path / "set").glob("*/*/*.mp4"))) == 16


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, frames: np.ndarray) -> None:
        if path.name == "00003.mp4":
            raise OSError(28, "No space left on device", str(path))
        write_keyframes(path, frames)

    monkeypatch.setattr("timesformer_jax.data.motion.write_keyframes", fail)
    with pytest.raises(OSError, match="No space"):
        write_motion(tmp_path / "set", train=8, test=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda path: MotionTask(kinds=()), "kinds"),
        (lambda path: MotionTask(kinds=("moving", "moving")), "moving"),
        (lambda path: MotionTask(size=33), "size"),
        (lambda path: MotionTask(frames=1), "frames"),
        (lambda path: write_motion(path, train=12, test=8), "train is 12"),
        (lambda path: write_motion(path, train=8, test=0), "test is 0"),
    ],
)
def test_what_makes_no_data_set(call, named: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=named):
        call(tmp_path / "set")


def test_within_pairs() -> None:
    classes = ("down", "left", "right", "up")
    # down: 6 right, 2 taken for up, 1 for left; left: all taken for right
    confusion = np.array([[6, 1, 0, 2], [0, 0, 3, 0], [0, 0, 4, 0], [1, 0, 1, 5]])
    assert within_pairs(classes, confusion) == (6 + 0 + 4 + 5) / (6 + 2 + 3 + 4 + 5 + 1)
    assert within_pairs(classes, np.zeros((4, 4), int)) == 0
