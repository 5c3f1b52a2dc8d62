"""Videos whose class lies in the motion alone: something to train on where no data set is at hand.

    clip, name = motion_clip(MotionTask(), seed=0, split="train", number=12)
    write_motion("motion", MotionTask(), train=3000, test=800)       # motion/train/up-left/00012.mp4 and so on

A textured shape moves over a textured background in one of eight directions. Classes come in pairs that are each other
played backwards, and so do clips: number 2k + 1 is number 2k with its frames in reverse order. Neither a frame nor an
unordered set of frames can therefore tell the two classes of a pair apart, whatever a model makes of them. The files
keep that to the last bit: every frame is a keyframe of the same quality, coded without regard to the others.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int, UInt8

from ..errors import DataError
from ..support.files import read_json, write_atomically
from ..support.progress import counter
from ..video.writing import write_video

MotionKind = Literal["moving", "turning", "growing"]
Split = Literal["train", "test"]

PAIRS: dict[MotionKind, tuple[tuple[str, str], ...]] = {
    "moving": (("right", "left"), ("down", "up"), ("down-right", "up-left"), ("up-right", "down-left")),
    "turning": (("clockwise", "counterclockwise"),),
    "growing": (("growing", "shrinking"),),
}
"""The classes of each kind of motion: the first of a pair played backwards is the second."""

OPPOSITE = {a: b for pairs in PAIRS.values() for pair in pairs for a, b in (pair, pair[::-1])}
"""The other class of each class's pair."""

# x to the right, y down, as in pictures.
_DIRECTIONS = {
    "right": (1.0, 0.0),
    "down": (0.0, 1.0),
    "down-right": (0.5**0.5, 0.5**0.5),
    "up-right": (0.5**0.5, -(0.5**0.5)),
}

DESCRIPTION = "motion.json"
"""The file that describes a data set."""

FRAMES_PER_SECOND = 10
SAMPLING_RATE = 3.0
"""The sampling rate that takes every frame of the files."""

_QUANTIZER = "18"
"""The quantizer of H.264, at which no eye sees what is lost."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionTask:
    """What moves, and how hard that is to see.

    Attributes:
        kinds: kinds of motion: moving in eight directions, turning in two, growing and shrinking.
        size: side of a frame in pixels; an even number.
        frames: frames of a clip. The way that a shape goes does not depend on their number.
        equal_brightness: shape and background have the same mean colour, and differ in their texture alone.
        distractors: smaller shapes that move their own ways; the largest one counts.
    """

    kinds: tuple[MotionKind, ...] = ("moving",)
    size: int = 64
    frames: int = 8
    equal_brightness: bool = False
    distractors: int = 0

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(PAIRS) or len(set(self.kinds)) < len(self.kinds):
            raise DataError(f"kinds must name each of {', '.join(PAIRS)} at most once, not {self.kinds}.")
        if self.size < 16 or self.size % 2:
            raise DataError(f"size must be an even number of pixels from 16 on, not {self.size}.")
        if self.frames < 2 or self.distractors < 0:
            raise DataError(f"a clip of {self.frames} frames with {self.distractors} distractors shows no motion.")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The classes, in pairs."""
        return tuple(pair for kind in self.kinds for pair in PAIRS[kind])


def motion_clip(
    task: MotionTask, *, seed: int, split: Split, number: int
) -> tuple[UInt8[np.ndarray, "t size size 3"], str]:
    """Draws a clip and names its class; other arguments give clips with other textures and shapes.

    Args:
        task: what moves.
        seed: seed of the data set.
        split: training and test clips share nothing.
        number: from 0 on; classes take turns, and 2k + 1 is 2k played backwards.
    """
    place, backwards = divmod(number, 2)
    pair = task.pairs[place % len(task.pairs)]
    rng = np.random.default_rng([seed, get_args(Split).index(split), place])
    frames = _draw(task, pair[0], rng)
    return (frames[::-1] if backwards else frames), pair[backwards]


def within_pairs(classes: Sequence[str], confusion: Int[np.ndarray, "classes classes"]) -> float:
    """The accuracy among the videos that were given one class of their pair; 0.5 is chance.

    Args:
        classes: names of the classes.
        confusion: how many videos of each class (row) were given which class (column).
    """
    other = [classes.index(OPPOSITE[name]) for name in classes]
    right, wrong = np.trace(confusion), confusion[np.arange(len(classes)), other].sum()
    return float(right / max(1, right + wrong))


def write_motion(
    directory: Path, task: MotionTask | None = None, *, train: int, test: int, seed: int = 0, overwrite: bool = False
) -> None:
    """Writes a data set: `train/CLASS/NUMBER.mp4`, `test/CLASS/NUMBER.mp4`, and `motion.json`, which describes it.

    Args:
        directory: the directory to write.
        task: what moves.
        train: number of training videos.
        test: number of test videos.
        seed: seed of everything random.
        overwrite: replace an existing directory.

    Raises:
        DataError: the directory exists, or the numbers make no whole pairs of every class.
    """
    task = task or MotionTask()
    classes = 2 * len(task.pairs)
    for name, count in (("train", train), ("test", test)):
        if count < classes or count % classes:
            raise DataError(f"{name} is {count} videos: it must be a multiple of the {classes} classes.")
    if directory.exists() and not overwrite:
        raise DataError(f"{directory} exists already; choose another name or pass --overwrite.")
    with write_atomically(directory) as temporary:
        counts: dict[Split, int] = {"train": train, "test": test}
        for split, name in itertools.product(counts, itertools.chain(*task.pairs)):
            (temporary / split / name).mkdir(parents=True)
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            futures = [
                pool.submit(_write_clip, temporary, task, seed, split, number)
                for split, count in counts.items()
                for number in range(count)
            ]
            with counter(len(futures), "making videos") as tell:
                for future in futures:
                    future.result()
                    tell(1)
        finally:
            pool.shutdown(cancel_futures=True)
        description = describe(task, train=train, test=test, seed=seed)
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def ensure_motion(directory: Path, task: MotionTask, *, train: int, test: int, seed: int) -> None:
    """Writes a data set, unless an earlier call has.

    Raises:
        DataError: the directory holds other videos, or the numbers make no whole pairs of every class.
    """
    if not directory.exists():
        write_motion(directory, task, train=train, test=test, seed=seed)
    elif read_json(directory / DESCRIPTION, DataError) != describe(task, train=train, test=test, seed=seed):
        raise DataError(f"{directory} holds videos of another task, number or seed; choose another directory.")


def describe(task: MotionTask, *, train: int, test: int, seed: int) -> dict[str, Any]:
    """The contents of `motion.json` for a data set."""
    return {"seed": seed, "train": train, "test": test, "task": json.loads(json.dumps(dataclasses.asdict(task)))}


def _write_clip(directory: Path, task: MotionTask, seed: int, split: Split, number: int) -> None:
    frames, name = motion_clip(task, seed=seed, split=split, number=number)
    write_keyframes(directory / split / name / f"{number:05d}.mp4", frames)


def write_keyframes(path: Path, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
    """Writes H.264 of which every frame is coded by itself: frames in reverse order decode to the same pixels."""
    options = {"preset": "ultrafast", "tune": "zerolatency", "qp": _QUANTIZER, "g": "1", "x264-params": "ipratio=1"}
    write_video(path, frames, FRAMES_PER_SECOND, options=options, threads=1)


def _draw(task: MotionTask, name: str, rng: np.random.Generator) -> UInt8[np.ndarray, "t size size 3"]:
    """Draws the frames of a clip of the first class of a pair."""
    axis = (np.arange(task.size, dtype=np.float32) + 0.5) / task.size
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)  # (x, y) of each pixel, in sides of a frame
    time = np.linspace(-0.5, 0.5, task.frames)
    dark, bright = (0.5, 0.5) if task.equal_brightness else (0.3, 0.75)
    frames = dark + _texture(rng, grid, frequencies=(2.0, 6.0))[None].repeat(task.frames, axis=0)
    for _ in range(task.distractors):
        angle = rng.uniform(0, 2 * np.pi)
        way = np.outer(time * rng.uniform(0.3, 0.5), (np.cos(angle), np.sin(angle)))
        centre = rng.uniform(0.1, 0.9, 2)
        radius = rng.uniform(0.06, 0.09)
        _paint(frames, rng, grid, bright, centre + way, np.zeros(task.frames), np.full(task.frames, radius))

    radius, span = rng.uniform(0.11, 0.15), rng.uniform(0.5, 0.65)
    # The middle of the way, and the room it has, do not depend on its direction.
    edge = 0.5 * span + 0.8 * radius
    places = np.broadcast_to(rng.uniform(edge, 1 - edge, 2), (task.frames, 2))
    angles, radii = np.zeros(task.frames), np.full(task.frames, radius)
    if name in _DIRECTIONS:
        places = places + np.outer(time * span, _DIRECTIONS[name])
    elif name == "clockwise":
        angles = time * rng.uniform(1.5, 2.5)
    else:
        radii = radius * np.exp(time * rng.uniform(0.7, 1.1))
    _paint(frames, rng, grid, bright, places, angles, radii)
    return np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def _paint(
    frames: Float32[np.ndarray, "t size size 3"],
    rng: np.random.Generator,
    grid: Float32[np.ndarray, "size size 2"],
    brightness: float,
    places: np.ndarray,
    angles: np.ndarray,
    radii: np.ndarray,
) -> None:
    """Paints a shape with a texture of its own, which moves, turns and grows along with it."""
    size = frames.shape[1]
    lobes, depth, phase = rng.integers(2, 6), rng.uniform(0.05, 0.25), rng.uniform(0, 2 * np.pi)
    local = (grid - places[:, None, None].astype(np.float32)) / radii[:, None, None, None].astype(np.float32)
    cosine, sine = (f(angles).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    x, y = local[..., 0] * cosine + local[..., 1] * sine, local[..., 1] * cosine - local[..., 0] * sine
    border = 1 + depth * np.cos(lobes * np.arctan2(y, x) + phase)
    # A border one pixel wide, so that places between pixels show.
    inside = np.clip((border - np.hypot(x, y)) * radii[:, None, None] * size + 0.5, 0, 1).astype(np.float32)[..., None]
    texture = brightness + _texture(rng, np.stack([x, y], axis=-1), frequencies=(0.4, 1.2))
    frames += inside * (texture - frames)


def _texture(
    rng: np.random.Generator, points: Float32[np.ndarray, "*n 2"], frequencies: tuple[float, float], waves: int = 5
) -> Float32[np.ndarray, "*n 3"]:
    """Sums a random colour and plane waves of random colours; the values are spread around zero."""
    angle, frequency = rng.uniform(0, np.pi, waves), rng.uniform(*frequencies, waves)
    vectors = 2 * np.pi * frequency * np.stack([np.cos(angle), np.sin(angle)])
    phases, colours = rng.uniform(0, 2 * np.pi, waves), rng.normal(0, 0.08 / waves**0.5, (waves, 3))
    waves_at = np.cos(points @ vectors.astype(np.float32) + phases.astype(np.float32))
    return waves_at @ colours.astype(np.float32) + rng.uniform(-0.1, 0.1, 3).astype(np.float32)
