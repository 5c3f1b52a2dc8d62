"""Which patches speak for a class: attention weighted with its gradient (Chefer, Gur & Wolf 2021, equations 5 and 6).

Attention rollout (rollout.py) is the same whatever class is asked for. Here each attention matrix A is replaced by

    A' = mean over the heads of max(0, dy/dA * A)

where y is the class's logit, so that only what raises it counts, and a layer passes relevance on by I + A', unmixed.
What it gives the input's tokens is the row of CLS in the product of all layers. Divided attention's two steps are
composed as in rollout.py; CLS has one gradient in each frame's copy, and the frames' edges add up.

The layers are run backwards one by one. An attention is attended = A value, so that dy/dA = dy/d(attended) valueᵀ. Only
the tokens that enter each layer are kept.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..checkpoints.mapping import Params
from ..config import TimesformerConfig
from ..errors import CheckpointError
from ..model.embeddings import patch_grid
from ..model.layers import Tokens
from ..model.token_groups import Grid
from ..schemes import attention_steps
from .layer_attentions import HostTokens, LayerAttentions, Model, backbone, gradient_before_layer, tokens_before_layers
from .rollout import Shares, all_on_cls, patch_map, through_step


def class_relevance(
    model: Model,
    params: Params,
    pixel_values: Float[Array | np.ndarray, "b t height width c"],
    classes: Sequence[int] | Int[Array | np.ndarray, " b"] | None = None,
) -> tuple[Float[np.ndarray, "b t rows columns"], Float[np.ndarray, "b labels"]]:
    """How much each patch of each frame speaks for a class.

    Args:
        model: with a classifier, of any attention type.
        params: its parameters.
        pixel_values: normalised clips, as for the model.
        classes: the class asked about of each clip; None asks about the likeliest.

    Returns:
        Relevances, 0 or above and in no unit, and the clips' logits.

    Raises:
        ValueError: the model has no classifier, or a class is not one of its.
        CheckpointError: its scores are not finite.
    """
    if not model.has_head or model.config.num_labels == 0:
        raise ValueError("the model has no classifier, so that no class can be explained.")
    entering = tokens_before_layers(model, params, pixel_values)
    tokens = entering.pop()
    logits = np.asarray(_classify(model, params, tokens))
    if not np.isfinite(logits).all():
        raise CheckpointError("the model's scores are not finite (NaN), so that no class can be explained.")
    chosen = np.argmax(logits, axis=1) if classes is None else np.asarray(classes)
    if chosen.shape != logits.shape[:1] or chosen.min() < 0 or chosen.max() >= logits.shape[1]:
        raise ValueError(f"classes must be one index below {logits.shape[1]} for each clip, not {classes}.")
    shares, gradient = all_on_cls(tokens), _class_gradient(model, params, tokens, chosen)
    grid = patch_grid(pixel_values, model.config)
    while entering:
        index = len(entering) - 1
        gradient, attentions = gradient_before_layer(model, params, index, entering.pop(), grid, gradient)
        shares = _relevance_back(model.config, grid, shares, attentions)
    return patch_map(model, pixel_values, shares), logits


def final_norm(
    model: Model, params: Params, tokens: Float[Array | np.ndarray, "*b d"], dtype: Any = None
) -> Float[Array, "*b d"]:
    """Tokens after the encoder's last LayerNorm."""
    norm = nn.LayerNorm(model.config.layer_norm_eps, dtype=dtype or model.dtype, use_fast_variance=False)
    return norm.apply({"params": backbone(model, params)["layernorm"]}, tokens)  # pyright: ignore[reportReturnType]


@functools.partial(jax.jit, static_argnums=0)
def _classify(model: Model, params: Params, tokens: Tokens | HostTokens) -> Float[Array, "b labels"]:
    # Space-only attention averages its frames before the norm; for the others the mean is of one.
    cls = final_norm(model, params, tokens[0].mean(axis=(1, 2)))
    dtype = jnp.promote_types(model.dtype, jnp.float32)
    classifier = params["classifier"]
    kernel, bias = (jnp.asarray(classifier[name], dtype) for name in ("kernel", "bias"))
    return jnp.matmul(cls.astype(dtype), kernel, precision=model.precision) + bias


@functools.partial(jax.jit, static_argnums=0)
def _class_gradient(model: Model, params: Params, tokens: Tokens | HostTokens, classes: Array) -> Tokens:
    def chosen(tokens: Tokens) -> Array:
        return jnp.take_along_axis(_classify(model, params, tokens), classes[:, None], axis=1).sum()

    return jax.grad(chosen)(tokens)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _relevance_back(config: TimesformerConfig, grid: Grid, shares: Shares, attentions: LayerAttentions) -> Shares:
    """The shares one layer further down: shares @ (I + A'_last) ... @ (I + A'_first)."""
    if config.attention_order == "parallel":
        passed = [through_step(step, grid, shares, attentions, averaged=False) for step in attention_steps(config)]
        return jax.tree.map(lambda *parts: sum(parts), shares, *passed)
    for step in reversed(attention_steps(config)):
        shares = jax.tree.map(jnp.add, shares, through_step(step, grid, shares, attentions, averaged=False))
    return shares
