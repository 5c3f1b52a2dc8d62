"""The optimizer of a recipe, as one of optax's gradient transformations, equal to PyTorch's of the same name."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ..checkpoints.mapping import Params
from .recipe import Optimizer


def make_optimizer(
    recipe: Optimizer, learning_rate: optax.Schedule, *, num_layers: int
) -> optax.GradientTransformation:
    """The gradient transformation that a recipe asks for. Clipping is part of the step, which reports the norm.

    Args:
        recipe: the settings.
        learning_rate: of each step.
        num_layers: of the encoder, for layer-wise decay.
    """
    mask = None if recipe.decay_all else decays
    decay = optax.add_decayed_weights(recipe.weight_decay, mask)
    if recipe.kind == "sgd":
        stages = [decay, optax.trace(recipe.momentum, recipe.nesterov)]
    else:
        stages = [optax.scale_by_adam(recipe.beta1, recipe.beta2, recipe.epsilon), decay]
    if recipe.layer_decay != 1:
        stages.append(scale_layers(recipe.layer_decay, num_layers))
    return optax.chain(*stages, optax.scale_by_learning_rate(learning_rate))


def decays(params: Params) -> Any:
    """Which parameters shrink when not all do: the kernels."""
    return jax.tree.map_with_path(lambda path, _: _names(path)[-1] == "kernel", params)


def scale_layers(decay: float, num_layers: int) -> optax.GradientTransformation:
    """Multiplies updates by `decay` for each layer that lies above (BEiT's layer-wise learning rates).

    Of n layers, layer i (counted from 0) gets decay**(n - i), the embeddings decay**(n + 1); the final norm and the
    classifier keep the whole rate. Stacked layers are scaled along their leading axis.
    """

    def scale(path: Any, update: Array) -> Array:
        names = _names(path)
        if "layers" in names:
            scales = decay ** jnp.arange(num_layers, 0, -1, dtype=update.dtype)
            return update * scales.reshape(-1, *[1] * (update.ndim - 1))
        return update * decay ** (num_layers + 1) if "embeddings" in names else update

    return optax.stateless(lambda updates, _: jax.tree.map_with_path(scale, updates))


def _names(path: Any) -> list[str]:
    return [str(key.key) for key in path]


def clip_by_norm(gradients: Params, norm: Array, largest: float | None) -> Params:
    """Gradients whose norm is at most `largest`; the same arithmetic as PyTorch's `clip_grad_norm_`."""
    if largest is None:
        return gradients
    scale = jnp.minimum(1.0, largest / (norm + 1e-6))
    return jax.tree.map(lambda gradient: gradient * scale.astype(gradient.dtype), gradients)
