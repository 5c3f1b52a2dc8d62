"""Attention as pure functions: softmax attention, and how each scheme of the paper (section 3) groups tokens.

The projections of a block of tokens are laid out as (batch, n, t, 3, h, k): n patches (or tokens) of t frames, query,
key and value, h heads of width k. A scheme says along which of the two axes, n or t, tokens attend to each other; the
other one is a batch axis. Joint attention is spatial attention over a single frame that holds all the tokens.
Letters are those of modeling.py.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ..config import AttentionImplementation
from ..sharding import on_cpu
from .blockwise import attention_in_blocks

Precision = jax.lax.PrecisionLike
DropProbabilities = Callable[[Float[Array, "..."]], Float[Array, "..."]]
Mask = Bool[np.ndarray, "..."]

_MOST_PLAIN, _MOST_PLAIN_ON_CPU = 2048, 1024
"""Tokens whose whole matrix of probabilities is still faster than blocks of it."""


def choose_implementation(
    requested: AttentionImplementation, tokens: int, *, needs_probabilities: bool = False
) -> Literal["plain", "blocks", "cudnn"]:
    """How attention over so many tokens is computed; the one place where that is decided.

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


def softmax_attention(
    query: Float[Array, "*b h q k"],
    key: Float[Array, "*b h s k"],
    value: Float[Array, "*b h s k"],
    *,
    scale: float | None = None,
    mask: Mask | None = None,
    drop: DropProbabilities | None = None,
    precision: Precision = None,
) -> tuple[Float[Array, "*b h q k"], Float[Array, "*b h q s"]]:
    """Softmax(query keyᵀ / sqrt(k)) value: equations 5 and 7 of the paper.

    Logits and softmax are at least float32, whatever the inputs are. The values are divided by the softmax's sum, not
    the probabilities: there are fewer of them. (Probabilities that nobody uses are never made under `jax.jit`.)

    Args:
        query: one row a token that attends.
        key: one row a token attended to.
        value: one row a token attended to.
        scale: of the logits; None is 1 / sqrt(k).
        mask: of the logits, and broadcast to them: False where a token is not to be seen. Every row sees one at least.
        drop: applied to the probabilities (dropout in training).
        precision: of the two matrix products.

    Returns:
        The attended values and the probabilities, in the inputs' type.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    exact = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.matmul(query, key.mT, precision=precision, preferred_element_type=exact)
    if factor != 1:
        logits = logits * factor
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    if drop is not None:
        weights, total = drop(weights / total), jnp.ones_like(total)
    values = jnp.matmul(weights.astype(value.dtype), value, precision=precision, preferred_element_type=exact) / total
    return values.astype(value.dtype), (weights / total).astype(value.dtype)


def attend(
    query: Float[Array, "b p h q k"],
    key: Float[Array, "b p h s k"],
    value: Float[Array, "b p h s k"],
    *,
    scale: float | None = None,
    mask: Mask | None = None,
    drop: DropProbabilities | None = None,
    precision: Precision = None,
    implementation: AttentionImplementation = "plain",
) -> tuple[Float[Array, "b p h q k"], Float[Array, "b p h q s"] | None]:
    """`softmax_attention` of tokens in groups (p), computed as `choose_implementation` says; see there.

    With a mask it is "plain" whatever was asked for: the others know none, and what is masked here is small.

    Returns:
        The attended values; the probabilities where they were held.
    """
    if mask is not None:
        implementation = "plain"
    match choose_implementation(implementation, key.shape[-2], needs_probabilities=drop is not None):
        case "blocks":
            factor: float = query.shape[-1] ** -0.5 if scale is None else scale
            return attention_in_blocks(query, key, value, scale=factor, precision=precision), None
        case "cudnn":
            arrays = (
                jnp.einsum("bphsk->bpshk", x).reshape(-1, x.shape[3], *x.shape[2::2]) for x in (query, key, value)
            )
            values = jax.nn.dot_product_attention(*arrays, scale=scale, implementation="cudnn")
            return jnp.einsum("bpshk->bphsk", values.reshape(*query.shape[:2], *values.shape[1:])), None
        case "plain":
            return softmax_attention(query, key, value, scale=scale, mask=mask, drop=drop, precision=precision)


def temporal_attention(
    qkv: Float[Array, "b n t 3 h k"],
    *,
    scale: float | None = None,
    drop: DropProbabilities | None = None,
    precision: Precision = None,
    implementation: AttentionImplementation = "plain",
) -> tuple[Float[Array, "b n t h k"], Float[Array, "b n h t t"] | None]:
    """Each patch attends to its own place in every frame (equation 11; like the paper's code, without CLS)."""
    query, key, value = _apart(qkv, "bnthk->bnhtk")
    values, probabilities = attend(
        query, key, value, scale=scale, drop=drop, precision=precision, implementation=implementation
    )
    return jnp.einsum("bnhtk->bnthk", values), probabilities


def spatial_attention(
    qkv: Float[Array, "b s t 3 h k"],
    *,
    scale: float | None = None,
    drop: DropProbabilities | None = None,
    precision: Precision = None,
    implementation: AttentionImplementation = "plain",
) -> tuple[Float[Array, "b s t h k"], Float[Array, "b t h s s"] | None]:
    """Each token attends to all tokens of its own frame, CLS among them (equation 6; equation 5 with one frame)."""
    query, key, value = _apart(qkv, "bsthk->bthsk")
    values, probabilities = attend(
        query, key, value, scale=scale, drop=drop, precision=precision, implementation=implementation
    )
    return jnp.einsum("bthsk->bsthk", values), probabilities


def cls_attention(
    query: Float[Array, "b 1 t 1 h k"],
    key_value: Float[Array, "b s t 2 h k"],
    *,
    scale: float | None = None,
    precision: Precision = None,
) -> Float[Array, "b 1 t h k"]:
    """`spatial_attention` of the CLS token alone: a row of logits a head, whatever the number of tokens."""
    (query,) = _apart(query, "bsthk->bthsk")
    key, value = _apart(key_value, "bsthk->bthsk")
    values, _ = softmax_attention(query, key, value, scale=scale, precision=precision)
    return jnp.einsum("bthsk->bsthk", values)


def _apart(projections: Float[Array, "b s t _ h k"], order: str) -> tuple[Float[Array, "b _ h _ k"], ...]:
    """Queries, keys and values (or some of them) apart, their axes in an order.

    By `jax.lax.split`, whose gradient joins theirs, where that of slices adds up arrays padded with zeros.
    """
    parts = jax.lax.split(projections, (1,) * projections.shape[3], axis=3)
    return tuple(jnp.einsum(order, part.squeeze(3)) for part in parts)


def stochastic_depth_scale(
    key: Array, rate: Float[Array, ""] | float, shape: tuple[int, ...], dtype: DTypeLike
) -> Float[Array, "..."]:
    """What a residual branch is multiplied with in training: 0 with probability `rate`, else 1 / (1 - rate).

    Args:
        key: random key.
        rate: probability that a branch is dropped, in [0, 1); may be traced.
        shape: one number for each branch that is dropped or kept on its own, 1 on the other axes.
        dtype: type of the result.
    """
    keep = 1 - rate
    return (jax.random.bernoulli(key, keep, shape) / keep).astype(dtype)
