"""One training step as a pure function of state and batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ..checkpoints.mapping import Params
from ..data.config import Augmentation
from ..data.on_device import mix_batch, normalize, smooth_labels
from ..model.modeling import TimesformerForVideoClassification
from ..video.processing import VideoProcessor
from .optimizer import clip_by_norm
from .recipe import TrainConfig
from .state import StepMetrics, TrainState, all_finite

Batch = dict[str, Array]
"""Frames, uint8 (b, t, height, width, c), and labels, int32 (b,)."""


def make_train_step(
    model: TimesformerForVideoClassification,
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    processor: VideoProcessor,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The step of a recipe, to be jitted (and its state donated) by the caller.

    Everything random in it comes of the recipe's seed and the number of the step. The gradient of a batch is the mean
    over `config.accumulation` equal parts, which is that of the whole batch but for dropout, stochastic depth, mixup
    and cutmix, which are drawn within each part.

    Args:
        model: the model.
        config: the recipe.
        optimizer: of the recipe (see `make_optimizer`).
        learning_rate: of each step, as the optimizer has it.
        processor: its mean and standard deviation normalise the frames.
    """
    augmentation, parts = config.data.augmentation, config.accumulation

    def loss_of(params: Params, batch: Batch, key: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        mix_key, dropout_key = jax.random.split(key)
        pixel_values, targets = prepare(batch, mix_key, augmentation, processor, model)
        outputs: Any = model.apply({"params": params}, pixel_values, train=True, rngs={"dropout": dropout_key})
        losses = optax.softmax_cross_entropy(outputs.logits, targets)
        correct = outputs.logits.argmax(axis=-1) == batch["labels"]
        return losses.mean(), correct.mean(dtype=losses.dtype)

    def gradient_of(params: Params, batch: Batch, key: Array) -> tuple[Array, Array, Params]:
        if parts == 1:
            (loss, accuracy), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, batch, key)
            return loss, accuracy, gradients

        def add(total: Any, part: Any) -> tuple[Any, None]:
            (loss, accuracy), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, *part)
            return jax.tree.map(lambda a, b: a + b / parts, total, (loss, accuracy, gradients)), None

        # Every parts-th clip makes a part, so that each device finds its share of a part among its own clips.
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        zeros = jax.tree.map(
            jnp.zeros_like, (*jax.eval_shape(loss_of, params, jax.tree.map(lambda x: x[0], split), key), params)
        )
        return jax.lax.scan(add, zeros, (split, jax.random.split(key, parts)))[0]

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        loss, accuracy, gradients = gradient_of(state.params, batch, key)
        norm = optax.tree.norm(gradients)
        clipped = clip_by_norm(gradients, norm, config.optimizer.clip_norm)
        updates, optimizer_state = optimizer.update(clipped, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        ema: Any = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - (config.optimizer.ema_decay or 0.0))
        metrics = StepMetrics(loss, accuracy, norm, jnp.asarray(learning_rate(state.step)), all_finite(params))
        return TrainState(state.step + 1, params, optimizer_state, ema), metrics

    return train_step


def prepare(
    batch: Batch,
    key: Array,
    augmentation: Augmentation,
    processor: VideoProcessor,
    model: TimesformerForVideoClassification,
) -> tuple[Float[Array, "b t height width c"], Float[Array, "b labels"]]:
    """Normalised pixel values and soft targets, mixed as the recipe says."""
    dtype = jnp.promote_types(model.dtype, jnp.float32)
    pixel_values = normalize(batch["frames"], processor, dtype)
    targets = smooth_labels(batch["labels"], model.config.num_labels, augmentation.label_smoothing)
    return mix_batch(key, pixel_values, targets, augmentation)
