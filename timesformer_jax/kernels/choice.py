"""Which kernel computes attention; it is chosen here alone."""

from typing import get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..config import AttentionImplementation
from ..sharding import on_cpu
from .blockwise import Precision, attention_in_blocks

_MOST_PLAIN, _MOST_PLAIN_ON_CPU = 2048, 1024
"""Tokens whose whole matrix of probabilities is still faster than blocks of it."""


def choose_implementation(
    requested: AttentionImplementation, tokens: int, *, needs_probabilities: bool = False
) -> AttentionImplementation:
    """How attention over so many tokens is computed.

    "plain"   the whole matrix of probabilities: fastest up to a thousand tokens or two. On a CPU, XLA hands the
              softmax, with what it can of the products beside it, to YNNPACK. On a TPU, padding 197 tokens to the 256
              that its matrix unit takes (and 8 frames to as many) costs less than a kernel that keeps running sums
              would, and XLA fuses the softmax with the products.
    "blocks"  blockwise.py: memory in proportion to the tokens, on any device.
    "cudnn"   cuDNN's fused attention, for half precision on a GPU. Never chosen by itself: a program for it can't even
              be lowered where cuDNN isn't. Untested: nobody has run it yet. Few tokens (the frames) stay with "plain".

    Args:
        requested: one of these, or "auto".
        tokens: that a token attends to.
        needs_probabilities: they are returned, or dropout acts on them. Only "plain" holds them.

    Raises:
        ValueError: no implementation has this name, or the one asked for does not hold the probabilities.
    """
    if requested not in get_args(AttentionImplementation):
        names = ", ".join(get_args(AttentionImplementation))
        raise ValueError(f"attention_implementation must be one of {names}, not {requested!r}.")
    if needs_probabilities and requested in ("blocks", "cudnn"):
        raise ValueError(
            f"attention_implementation {requested!r} never holds the attention probabilities, which output_attentions "
            'and dropout of probabilities need; choose "plain", which has memory for them at least.'
        )
    if requested == "auto":
        most = _MOST_PLAIN_ON_CPU if on_cpu() else _MOST_PLAIN
        return "blocks" if tokens >= most and not needs_probabilities else "plain"
    return "plain" if requested == "cudnn" and tokens < 64 else requested


def attention_without_matrix(
    chosen: AttentionImplementation,
    query: Float[Array, "b g h q k"],
    key: Float[Array, "b g h s k"],
    value: Float[Array, "b g h s k"],
    *,
    scale: float,
    precision: Precision = None,
) -> Float[Array, "b g h q k"]:
    """Softmax(scale query keyᵀ) value by "blocks" or "cudnn", which never hold the matrix of probabilities."""
    if chosen == "blocks":
        return attention_in_blocks(query, key, value, scale=scale, precision=precision)
    arrays = (jnp.einsum("bghsk->bgshk", x).reshape(-1, x.shape[3], *x.shape[2::2]) for x in (query, key, value))
    values = jax.nn.dot_product_attention(*arrays, scale=scale, implementation="cudnn")
    return jnp.einsum("bgshk->bghsk", values.reshape(*query.shape[:2], *values.shape[1:]))
