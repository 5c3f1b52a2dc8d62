"""The first batches that training takes of some videos, and whether two such streams are the same."""

from pathlib import Path

import numpy as np

from timesformer_jax.data.batches import TrainingBatches
from timesformer_jax.data.config import ClipShape, DataConfig
from timesformer_jax.data.videos import Videos

CLIP = ClipShape(3, 16, 16, 4)


def streams(videos: Videos, bad_list: Path, workers: int = 0, start: int = 0) -> list[dict[str, np.ndarray]]:
    config = DataConfig(workers=workers, max_bad_fraction=0.5)
    batches = TrainingBatches(videos, config, clip=CLIP, batch_size=4, seed=1, bad_list=bad_list)
    batches.number = start
    taken = [next(batches) for _ in range(3)]
    batches.close()
    return taken


def assert_same(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> None:
    for a, b in zip(one, other, strict=True):
        for name in ("ids", "labels", "frames"):
            np.testing.assert_array_equal(a[name], b[name])
