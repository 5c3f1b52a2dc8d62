"""Run by test_sharding.py in a process of its own with eight simulated devices: the training step, lowered for CUDA."""

import json
from typing import Any

import jax
import jax.numpy as jnp

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, VideoProcessor
from timesformer_jax.sharding import MeshConfig, clip_sharding, make_mesh, shardings_of, use_mesh
from timesformer_jax.training.optimizer import make_optimizer
from timesformer_jax.training.recipe import TrainConfig
from timesformer_jax.training.schedule import learning_rate_schedule
from timesformer_jax.training.state import TrainState
from timesformer_jax.training.step import make_train_step


def main() -> None:
    config = TimesformerConfig(
        num_frames=8, image_size=32, patch_size=8, hidden_size=24, num_attention_heads=4, intermediate_size=40
    )
    recipe = TrainConfig(batch_size=8)
    model = TimesformerForVideoClassification(config, dtype=jnp.bfloat16, remat="full")
    rate = learning_rate_schedule(recipe.schedule, 0.005, steps_per_epoch=10, total_steps=100)
    optimizer = make_optimizer(recipe.optimizer, rate, num_layers=config.num_hidden_layers)
    step = make_train_step(model, recipe, optimizer, rate, VideoProcessor(size=32, crop_size=(32, 32)))
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, frames=2))
    clips = (8, 8, 32, 32, 3)

    def placed(leaf: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    params: Any = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(clips, jnp.float32))["params"]
    state = jax.eval_shape(lambda params: TrainState.create(params, optimizer, ema=True), params)
    places = shardings_of(state, mesh)
    batch = {
        "frames": jax.ShapeDtypeStruct(clips, jnp.uint8, sharding=clip_sharding(mesh, clips)),
        "labels": jax.ShapeDtypeStruct((8,), jnp.int32, sharding=clip_sharding(mesh, (8,))),
    }
    with use_mesh(mesh):
        exported = jax.export.export(jax.jit(step, out_shardings=(places, None)), platforms=["cuda"])(
            jax.tree.map(placed, state, places), batch
        )
    print(json.dumps([list(exported.platforms), exported.nr_devices, str(exported.mlir_module())]))


if __name__ == "__main__":
    main()
