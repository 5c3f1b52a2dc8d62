"""The loader against the way of the documentation: clips a second on one core, and what training waits for.

    python benchmarks/loader.py [--video VIDEO]

The documentation of Transformers' TimeSformer decodes a video from its beginning to the last frame of the clip,
converts the frames that it keeps (`read_video_pyav`), and gives them to the image processor. Both read the same 8x32
clips of the same ten-second H.264 files of 340x256 pixels, on the same core. "decode" compares the frames alone; "clip"
what the model needs: there resized, cropped and normalised by VideoMAEImageProcessor, here cut at random and resized
(training normalises on the device). The files are made of VIDEO, or of a moving texture when none is given.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image
from transformers import VideoMAEImageProcessor

from timesformer_jax import probe, read_frames
from timesformer_jax.data.batches import TrainingBatches
from timesformer_jax.data.clips import crop_and_resize, frame_indices, random_crop, read_clips
from timesformer_jax.data.config import Augmentation, ClipShape, DataConfig
from timesformer_jax.data.sources import read_videos

HEIGHT, WIDTH, FRAMES, FPS = 256, 340, 300, 30
CLIP = ClipShape(8, 224, 224, 32)
PROCESSOR = VideoMAEImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})


def pictures(video: str | None) -> np.ndarray:
    """Ten seconds to encode: of a video (there and back, where it is shorter), or a texture that moves, with grain."""
    if video:
        count = min(probe(video).frames, FRAMES)
        there = list(range(count))
        order = (there + there[-2:0:-1]) * FRAMES
        source = read_frames(video, order[:FRAMES])
        return np.stack([np.asarray(Image.fromarray(frame).resize((WIDTH, HEIGHT))) for frame in source])
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (HEIGHT // 8, WIDTH // 4, 3), np.uint8))
    texture = np.asarray(noise.resize((WIDTH * 3, HEIGHT * 2), Image.Resampling.BICUBIC)).astype(np.int16)
    result = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for i in range(FRAMES):
        left, top = int((np.sin(i / 40) + 1) * WIDTH * 0.9), int((np.cos(i / 55) + 1) * HEIGHT * 0.45)
        frame = texture[top : top + HEIGHT, left : left + WIDTH] + rng.normal(0, 3, (HEIGHT, WIDTH, 1)).astype(np.int16)
        result[i] = np.clip(frame, 0, 255)
    return result


def encode(path: Path, frames: np.ndarray, keyframe_every: int) -> None:
    """H.264 as x264 makes it by default, but for the keyframes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": str(keyframe_every)})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def documentation(path: str, positions: np.ndarray) -> np.ndarray:
    """A clip as the documentation reads it."""
    indices = frame_indices(FRAMES, FPS, CLIP, positions).tolist()
    with av.open(path) as container:
        frames = []
        for i, frame in enumerate(container.decode(video=0)):
            if i > indices[-1]:
                break
            if i >= indices[0] and i in indices:
                frames.append(frame)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def loader(path: str, positions: np.ndarray) -> np.ndarray:
    """A clip as the loader reads it."""
    return read_clips(path, CLIP, positions)


def documented_clip(path: str, positions: np.ndarray) -> np.ndarray:
    """What the documentation gives to the model."""
    return PROCESSOR(list(documentation(path, positions)), return_tensors="np")["pixel_values"]


def loaded_clip(path: str, positions: np.ndarray) -> np.ndarray:
    """A training clip, augmented as for Kinetics."""
    box = random_crop(HEIGHT, WIDTH, CLIP, Augmentation(), positions[:4])
    return crop_and_resize(loader(path, positions), box, CLIP.height, CLIP.width)


def seconds(read: Callable[[str, np.ndarray], np.ndarray], path: str, clips: int = 4) -> float:
    """Processor time of a clip."""
    rng = np.random.default_rng(0)
    begin = time.process_time()
    for _ in range(clips):
        read(path, rng.random(CLIP.num_frames))
    return (time.process_time() - begin) / clips


def data_wait(path: Path, workers: int, step_seconds: float, steps: int = 12, batch_size: int = 4) -> float:
    """Share of the time that a training which needs `step_seconds` for a step would wait for its batch."""
    (path.parent / "list.txt").write_text(f"{path.name} 0\n")
    videos, config = read_videos(str(path.parent / "list.txt")), DataConfig(workers=workers)
    bad_list = path.parent / "bad.txt"
    batches = TrainingBatches(videos, config, clip=CLIP, batch_size=batch_size, seed=0, bad_list=bad_list)
    next(batches)
    waited, begin = 0.0, time.perf_counter()
    for _ in range(steps):
        time.sleep(step_seconds)  # as an accelerator leaves the host idle
        before = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - before
    share = waited / (time.perf_counter() - begin)
    batches.close()
    return share


def main() -> None:
    """Prints a line for each keyframe interval, and the data wait."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video")
    frames = pictures(parser.parse_args().video)
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        print("keyframe every | bytes | what   | documentation | loader      | ratio")
        for every in (250, 30):
            path = Path(folder) / f"{every}.mp4"
            encode(path, frames, every)
            for positions in np.random.default_rng(1).random((3, CLIP.num_frames)):
                np.testing.assert_array_equal(loader(str(path), positions), documentation(str(path), positions))
            os.sched_setaffinity(0, {min(cores)})
            for what, their_way, our_way in (
                ("decode", documentation, loader),
                ("clip", documented_clip, loaded_clip),
            ):
                pairs = [(seconds(their_way, str(path)), seconds(our_way, str(path))) for _ in range(5)]
                theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
                ratio = statistics.median(a / b for a, b in pairs)
                print(
                    f"{every:14} | {path.stat().st_size:7} | {what:6} | {1 / theirs:6.1f} clips/s | "
                    f"{1 / ours:5.1f} clips/s | {ratio:.2f}"
                )
            os.sched_setaffinity(0, cores)
        workers = len(cores)
        step = 1.5 * 4 * ours / workers
        print(f"data wait, {workers} workers, step of {step:.2f} s for 4 clips: {data_wait(path, workers, step):.1%}")


if __name__ == "__main__":
    main()
