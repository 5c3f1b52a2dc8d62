"""Which patches speak for a class: attention weighted with its gradient (Chefer, Gur & Wolf 2021, equations 5 and 6).

Attention rollout (rollout.py) is the same whatever class is asked for. Here each attention matrix A is replaced by

    A' = mean over the heads of max(0, dy/dA * A)

where y is the class's logit, so that only what raises it counts, and a layer passes relevance on by I + A', unmixed.
What it gives the input's tokens is the row of CLS in the product of all layers. Divided attention's two steps are
composed as in rollout.py; CLS has one gradient in each frame's copy, and the frames' edges add up.

The layers are run backwards one by one. An attention is attended = A value, so that dy/dA = dy/d(attended) valueᵀ, and
dy/d(attended) follows from the gradient at the attention's output. Only the tokens that enter each layer are kept.
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
from ..model.layers import Tokens
from .layerwise import (
    HostTokens,
    LayerAttentions,
    Model,
    apply_layer,
    attention_of,
    backbone,
    layer_slice,
    tokens_before_layers,
)
from .rollout import Layout, Row, last_row, layout_of, patch_map, through_step


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
    """
    if not model.has_head or model.config.num_labels == 0:
        raise ValueError("the model has no classifier, so that no class can be explained.")
    entering = tokens_before_layers(model, params, pixel_values)
    tokens = entering.pop()
    logits = np.asarray(_classify(model, params, tokens))
    chosen = np.argmax(logits, axis=1) if classes is None else np.asarray(classes)
    if chosen.shape != logits.shape[:1] or chosen.min() < 0 or chosen.max() >= logits.shape[1]:
        raise ValueError(f"classes must be one index below {logits.shape[1]} for each clip, not {classes}.")
    row, gradient = last_row(tokens), _class_gradient(model, params, tokens, chosen)
    layout = layout_of(model, pixel_values)
    while entering:
        index = len(entering) - 1
        layers = backbone(model, params)["encoder"]["layers"]
        gradient, attentions = _layer_gradient(model, layout, layers, index, entering.pop(), gradient)
        row = _relevance_back(layout, row, attentions)
    return patch_map(model, pixel_values, row), logits


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
def _layer_gradient(
    model: Model, layout: Layout, layers: Params, index: Any, tokens: Tokens | HostTokens, gradient: Tokens
) -> tuple[Tokens, LayerAttentions]:
    """The gradient at the tokens that enter a layer, and its attentions with their gradients."""
    layer_params = layer_slice(layers, index)
    cls, patches = (jnp.zeros(part.shape, model.dtype) for part in tokens)
    added: dict[str, tuple[Array, ...]] = {}
    for step in layout.steps:
        match step.reach:
            case "time":
                added[step.attention] = (patches,)
            case "frame":
                copies = jnp.broadcast_to(cls, (len(cls), 1, *patches.shape[2:]))
                added[step.attention] = (jnp.concatenate([copies, patches], axis=1),)
            case _:
                added[step.attention] = (cls, patches)

    def run(tokens: Any, added: Any) -> Any:
        return apply_layer(model, layer_params, tokens, layout.grid, added)

    _, pull_back, entered = jax.vjp(run, tokens, added, has_aux=True)
    before, at_outputs = pull_back(gradient)
    return before, {
        step.attention: attention_of(
            model, layer_params, step, entered[step.attention], layout.grid, at_outputs[step.attention]
        )
        for step in layout.steps
    }


@functools.partial(jax.jit, static_argnums=0)
def _relevance_back(layout: Layout, row: Row, attentions: LayerAttentions) -> Row:
    """The row of CLS one layer further down: row @ (I + A'_last) ... @ (I + A'_first)."""
    if layout.parallel:
        passed = [through_step(layout, step, row, attentions, averaged=False) for step in layout.steps]
        return jax.tree.map(lambda *parts: sum(parts), row, *passed)
    for step in reversed(layout.steps):
        row = jax.tree.map(jnp.add, row, through_step(layout, step, row, attentions, averaged=False))
    return row
