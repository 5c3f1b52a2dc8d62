"""Run by test_sharding.py in a process of its own with eight simulated devices: inference on meshes, against one."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tiny_flax import COLUMNS, FRAMES, ROWS, tiny_flax

from timesformer_jax import VideoClassifier, VideoProcessor
from timesformer_jax.sharding import MeshConfig, make_mesh

PROCESSOR = VideoProcessor(size=8, crop_size=(4 * ROWS, 4 * COLUMNS))
# Five clips: more and fewer than there are places for, at most four of them together, in numbers that nothing divides.
CASES: list[tuple[Any, Any, int | None]] = [
    ("divided_space_time", MeshConfig(), None),
    ("divided_space_time", MeshConfig(data=2, fsdp=2, frames=2), 4),
    ("joint_space_time", MeshConfig(frames=2), 3),
    ("joint_space_time", MeshConfig(data=1, fsdp=2, tensor=2, frames=2), None),
    ("space_only", MeshConfig(data=2, tensor=4), 5),
]


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    clips = np.random.default_rng(0).normal(size=(5, FRAMES + 1, 4 * ROWS, 4 * COLUMNS, 3)).astype(np.float32)
    for attention, config, batch_size in CASES:
        model, params = tiny_flax(attention, dtype=jnp.float64, num_labels=6)
        alone, spread = (
            VideoClassifier.from_model(model, params, PROCESSOR, batch_size=batch_size, mesh=mesh).forward(clips)
            for mesh in (None, make_mesh(config))
        )
        difference = np.abs(spread - alone).max() / np.abs(alone).max()
        print(json.dumps([f"{attention} on {config}", float(difference)]))


if __name__ == "__main__":
    main()
