"""Attention as pure functions: softmax attention, and how each scheme of the paper (section 3) groups tokens.

The projections of a block of tokens are laid out as (batch, n, t, 3, h, k): n patches (or tokens) of t frames, query,
key and value, h heads of width k. A scheme says along which of the two axes, n or t, tokens attend to each other; the
other one is a batch axis. Joint attention is spatial attention over a single frame that holds all the tokens.
Letters are those of modeling.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Precision = jax.lax.PrecisionLike
DropProbabilities = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def softmax_attention(
    query: Float[Array, "*b h q k"],
    key: Float[Array, "*b h s k"],
    value: Float[Array, "*b h s k"],
    *,
    drop: DropProbabilities | None = None,
    precision: Precision = None,
) -> tuple[Float[Array, "*b h q k"], Float[Array, "*b h q s"]]:
    """Softmax(query keyᵀ / sqrt(k)) value: equations 5 and 7 of the paper.

    Logits and softmax are at least float32, whatever the inputs are: in bfloat16 the probabilities of a row would
    not sum to one.

    Args:
        query: one row a token that attends.
        key: one row a token attended to.
        value: one row a token attended to.
        drop: applied to the probabilities (dropout in training).
        precision: of the two matrix products.

    Returns:
        The attended values, in the inputs' type, and the probabilities.
    """
    softmax_dtype = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.matmul(query, key.mT, precision=precision, preferred_element_type=softmax_dtype)
    probabilities = jax.nn.softmax(logits * query.shape[-1] ** -0.5, axis=-1).astype(value.dtype)
    if drop is not None:
        probabilities = drop(probabilities)
    return jnp.matmul(probabilities, value, precision=precision), probabilities


def temporal_attention(
    qkv: Float[Array, "b n t 3 h k"], *, drop: DropProbabilities | None = None, precision: Precision = None
) -> tuple[Float[Array, "b n t h k"], Float[Array, "b n h t t"]]:
    """Each patch attends to its own place in every frame (equation 11; like the paper's code, without CLS)."""
    query, key, value = jnp.einsum("bntchk->cbnhtk", qkv)
    values, probabilities = softmax_attention(query, key, value, drop=drop, precision=precision)
    return jnp.einsum("bnhtk->bnthk", values), probabilities


def spatial_attention(
    qkv: Float[Array, "b s t 3 h k"], *, drop: DropProbabilities | None = None, precision: Precision = None
) -> tuple[Float[Array, "b s t h k"], Float[Array, "b t h s s"]]:
    """Each token attends to all tokens of its own frame, CLS among them (equation 6; equation 5 with one frame)."""
    query, key, value = jnp.einsum("bstchk->cbthsk", qkv)
    values, probabilities = softmax_attention(query, key, value, drop=drop, precision=precision)
    return jnp.einsum("bthsk->bsthk", values), probabilities


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
