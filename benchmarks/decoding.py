"""Reading a clip of 8 frames against the recipe of Transformers' documentation, which decodes up to the last of them.

    python benchmarks/decoding.py [--repeats 7] [--json FILE]

H.264, 340 x 256 pixels, 30 frames a second, with a keyframe every 30 and every 250 frames; 10 seconds and 2 minutes.
The frames are spread evenly over the video (what a checkpoint is given whose sampling is not known), and, second, the
middle 8 x 32. Both readers must give the same pixels; they take turns, and the median of the ratios counts.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from timesformer_jax import read_clip
from timesformer_jax.video.sampling import clip_indices, evenly_spread_indices

SECONDS = (10, 120)
KEYFRAMES = (30, 250)


def textured_frames(count: int, height: int = 256, width: int = 340) -> np.ndarray:
    """Smooth colours with some grain, drifting: about as hard to decode as a film of a quiet scene."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3)).repeat(16, axis=0).repeat(16, axis=1)
    picture = (0.8 * coarse[:height, :width] + rng.integers(0, 40, (height, width, 3))).astype(np.uint8)
    return np.stack([np.roll(picture, (i // 3, 2 * i), axis=(0, 1)) for i in range(count)])


def write_video(path: Path, seconds: int, keyframes: int) -> None:
    """Encodes H.264 with a keyframe every so many frames."""
    period = textured_frames(30)
    with av.open(str(path), "w") as container:
        options = {"x264-params": f"keyint={keyframes}:min-keyint={keyframes}:scenecut=0", "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=Fraction(30), options=options)
        stream.height, stream.width, stream.pix_fmt = 256, 340, "yuv420p"
        for i in range(30 * seconds):
            frame = av.VideoFrame.from_ndarray(np.roll(period[i % 30], 5 * (i // 30), axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def documented_recipe(path: Path, indices: np.ndarray) -> np.ndarray:
    """Decodes the video from its beginning up to the last frame that is wanted."""
    wanted = set(indices.tolist())
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i > indices[-1]:
                break
            if i in wanted:
                frames.append(frame)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def seconds_of(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """How long a call takes, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def compare(path: Path, indices: np.ndarray, rate: float | None, repeats: int) -> tuple[float, float, float]:
    """Median seconds of the recipe and of `read_clip`, and the median of their ratios."""
    theirs, ours = [], []
    for run in range(repeats + 1):
        slow, expected = seconds_of(lambda: documented_recipe(path, indices))
        fast, found = seconds_of(lambda: read_clip(path, 8, sampling_rate=rate))
        if not np.array_equal(expected, found):
            raise SystemExit(f"{path.name}: the frames differ")
        if run:
            theirs.append(slow)
            ours.append(fast)
    ratios = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
    return statistics.median(theirs), statistics.median(ours), statistics.median(ratios)


def main() -> None:
    """Prints a row for each video and sampling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}, PyAV {av.__version__}; milliseconds, and times as fast")
    print(f"{'video':24} {'frames':14} {'recipe':>8} {'read_clip':>10} {'ratio':>7}")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as directory:
        for keyframes in KEYFRAMES:
            for seconds in SECONDS:
                path = Path(directory) / f"{seconds}s-{keyframes}.mp4"
                write_video(path, seconds, keyframes)
                total = 30 * seconds
                for name, indices, rate in (
                    ("8 spread", evenly_spread_indices(total, 8), None),
                    ("middle 8 x 32", clip_indices(total, 30, 8, 32), 32),
                ):
                    recipe, own, ratio = compare(path, indices, rate, options.repeats)
                    video = f"{seconds} s, key every {keyframes}"
                    print(f"{video:24} {name:14} {1e3 * recipe:8.1f} {1e3 * own:10.1f} {ratio:7.2f}", flush=True)
                    rows.append({"video": video, "frames": name, "recipe": recipe, "read_clip": own, "ratio": ratio})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
