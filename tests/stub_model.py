"""A training step that is traced in no time and computes in whole numbers, for tests of everything around it.

Sums of whole numbers are exact in any order, so the state after a step does not depend on the mesh, on how many
processes there are or on the compiler: whatever differs, the job has done wrong. Imported in the processes of a job.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax.config import TimesformerConfig
from timesformer_jax.training import initial_model, job
from timesformer_jax.training.initial_model import Start, abstract_params, make_model
from timesformer_jax.training.state import StepMetrics, TrainState
from timesformer_jax.video.processing import VideoProcessor


def start_from_recipe(options: Any, classes: Any, seed: int) -> Start:
    config = TimesformerConfig.preset(options.architecture, **options.overrides(), id2label=dict(enumerate(classes)))
    shapes = abstract_params(config, np.float32)
    size = config.image_shape[0]
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, seed + leaf.size % 7, leaf.dtype), shapes)
    return Start(make_model(config, options), VideoProcessor(size=size, crop_size=config.image_shape), params)


def make_train_step(model: Any, config: Any, optimizer: Any, learning_rate: Any, processor: Any) -> Any:
    def step(state: TrainState, batch: Any) -> tuple[TrainState, StepMetrics]:
        seen = jnp.sum(batch["frames"].astype(jnp.int32) % 5) % 11 + jnp.sum(batch["labels"]) + state.step
        rate = jnp.asarray(learning_rate(state.step), jnp.float32)

        def change(leaf: Any) -> Any:
            if leaf.dtype != jnp.float32:
                return leaf
            return (leaf + seen.astype(leaf.dtype) + jnp.round(1000 * rate)) % 1024

        params = jax.tree.map(change, state.params)
        loss = jnp.sum(params["classifier"]["bias"]) % 97
        changed = TrainState(state.step + 1, params, jax.tree.map(change, state.optimizer), state.ema)
        return changed, StepMetrics(loss, loss / 97, loss + 1, rate, jnp.bool_(True))

    return step


def make_predict(model: Any, processor: Any, average: Any = None) -> Any:
    @jax.jit
    def predict(params: Any, frames: Any) -> Any:
        seen = jnp.sum(frames.astype(jnp.int32), axis=tuple(range(1, frames.ndim)))
        return (seen[:, None] * jnp.arange(1, 4) % 13).astype(jnp.float32) + params["classifier"]["bias"] * 0

    return predict


initial_model.start_from_recipe = job.start_from_recipe = start_from_recipe
job.make_train_step, job.make_predict = make_train_step, make_predict
