"""How attention is computed on the devices at hand: whole matrices, blocks, cuDNN, a ring. It is chosen here alone.

All of them give what `softmax_attention` and `grouped_attention` give, but for rounding.
"""

from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..config import AttentionImplementation
from ..sharding import axes_in_use, devices_along, on_cpu
from .attention import DropProbabilities, Precision, grouped_attention, softmax_attention
from .blockwise import attention_in_blocks
from .ring import grouped_ring_attention
from .token_groups import Mask, TokenGroups

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


def attend(
    query: Float[Array, "b g h q k"],
    key: Float[Array, "b g h s k"],
    value: Float[Array, "b g h s k"],
    *,
    scale: float,
    mask: Mask | None = None,
    drop: DropProbabilities | None = None,
    precision: Precision = None,
    implementation: AttentionImplementation = "auto",
    needs_probabilities: bool = False,
) -> tuple[Float[Array, "b g h q k"], Float[Array, "b g h q s"] | None]:
    """`softmax_attention`, computed as `choose_implementation` says.

    With a mask it is "plain" whatever was asked for: the others know none, and what is masked here is small.

    Returns:
        The attended values; the probabilities where they were held.
    """
    chosen = choose_implementation(implementation, key.shape[-2], needs_probabilities=needs_probabilities)
    if mask is not None or chosen == "plain":
        return softmax_attention(query, key, value, scale=scale, mask=mask, drop=drop, precision=precision)
    if chosen == "blocks":
        return attention_in_blocks(query, key, value, scale=scale, precision=precision), None
    arrays = (jnp.einsum("bghsk->bgshk", x).reshape(-1, x.shape[3], *x.shape[2::2]) for x in (query, key, value))
    values = jax.nn.dot_product_attention(*arrays, scale=scale, implementation="cudnn")
    return jnp.einsum("bgshk->bghsk", values.reshape(*query.shape[:2], *values.shape[1:])), None


def choose_attention(
    groups: TokenGroups, requested: AttentionImplementation, *, needs_probabilities: bool = False
) -> Callable[..., Any]:
    """`grouped_attention`, or for clips whose frames are spread evenly over devices the same round a ring of these."""
    if groups.kind == "clip" and not needs_probabilities and requested in ("auto", "blocks"):
        axes = axes_in_use("parallel")
        if axes and groups.frames % devices_along(axes) == 0:
            return grouped_ring_attention
    return grouped_attention
