"""Attention in blocks: memory in proportion to the tokens instead of their square, forward and backward.

The matrix of logits is made a block of queries by a block of keys at a time. A running maximum and a running sum make
the softmax of a row whose end is not known yet: where a later block raises the maximum, what was summed before is
scaled down. The backward pass makes the same blocks again from the logarithm of each row's sum, all that is kept.
(Milakov and Gimelshein, arXiv 1805.02867; Rabe and Staats, arXiv 2112.05682; Dao et al., arXiv 2205.14135.)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Precision = jax.lax.PrecisionLike
Residuals = tuple[Array, Array, Array, Array, Array]

Blocks = tuple[int, int]
"""Rows of a block of queries, and of a block of keys."""

BLOCKS: Blocks = (512, 512)
"""With all heads at once, as accelerators like them."""

_CPU_BLOCKS, _CPU_HEADS = (512, 32768), 2
"""On a CPU, a head for each of two threads: a few queries against (mostly) all keys, whose softmax is then one pass."""


def attention_in_blocks(
    query: Float[Array, "*b q k"],
    key: Float[Array, "*b s k"],
    value: Float[Array, "*b s k"],
    *,
    scale: float,
    precision: Precision = None,
) -> Float[Array, "*b q k"]:
    """`blockwise_attention` in blocks that suit the device which the program is lowered for."""

    def on_cpu(*arrays: Float[Array, "..."]) -> Float[Array, "*b q k"]:
        heads = tuple(array.reshape(-1, *array.shape[-2:]) for array in arrays)
        values = jax.lax.map(
            lambda rows: in_blocks(rows[0], rows[1], rows[2], _CPU_BLOCKS), heads, batch_size=_CPU_HEADS
        )
        return values.reshape(query.shape)

    def in_blocks(query: Array, key: Array, value: Array, blocks: Blocks = BLOCKS) -> Array:
        return blockwise_attention(query, key, value, scale, precision, blocks)

    return jax.lax.platform_dependent(query, key, value, cpu=on_cpu, default=in_blocks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def blockwise_attention(
    query: Float[Array, "*b q k"],
    key: Float[Array, "*b s k"],
    value: Float[Array, "*b s k"],
    scale: float,
    precision: Precision,
    blocks: Blocks,
) -> Float[Array, "*b q k"]:
    """Softmax(scale query keyᵀ) value, a block at a time.

    Differentiable once, with respect to the three arrays, in reverse mode. Logits and sums are at least float32.

    Args:
        query: one row a token that attends.
        key: one row a token attended to.
        value: one row a token attended to.
        scale: of the logits.
        precision: of matrix products.
        blocks: how many queries and how many keys a block has.
    """
    return _forward(query, key, value, scale, precision, blocks)[0]


def attend_in_blocks(
    query: Float[Array, "*b q k"],
    key: Float[Array, "*b s k"],
    value: Float[Array, "*b s k"],
    scale: float,
    precision: Precision,
    blocks: Blocks,
) -> tuple[Float[Array, "*b q k"], Float[Array, "*b q 1"]]:
    """What `blockwise_attention` gives, before it is rounded, and the logarithm of each row's sum."""
    rows, columns = blocks
    dtype, product = _exact(query.dtype, precision)

    def attend(carry: None, block: tuple[Array, ...]) -> tuple[None, tuple[Array, ...]]:
        (query,) = block

        def step(carry: Any, block: tuple[Array, ...]) -> tuple[Any, tuple[Array, ...]]:
            largest, total, values = carry
            key, value = block
            logits = product(query, key.mT) * scale
            raised = jnp.maximum(largest, logits.max(-1, keepdims=True))
            weights, correction = jnp.exp(logits - raised), jnp.exp(largest - raised)
            total = total * correction + weights.sum(-1, keepdims=True)
            return (raised, total, values * correction + product(weights.astype(value.dtype), value)), ()

        column = (*query.shape[:-1], 1)
        start = (jnp.full(column, -jnp.inf, dtype), jnp.zeros(column, dtype), jnp.zeros(query.shape, dtype))
        (largest, total, values), _ = _over_blocks(step, start, columns, (key, value))
        return None, (values / total, largest + jnp.log(total))

    _, (result, log_sums) = _over_blocks(attend, None, rows, (query,))
    return result, log_sums


def gradients_in_blocks(
    scale: float, precision: Precision, blocks: Blocks, residuals: Residuals, gradient: Float[Array, "*b q k"]
) -> tuple[Float[Array, "*b q k"], Float[Array, "*b s k"], Float[Array, "*b s k"]]:
    """Gradients of queries, keys and values, before they are rounded.

    Args:
        scale: of the logits.
        precision: of matrix products.
        blocks: how many queries and how many keys a block has.
        residuals: queries; keys and values, of which those of other rows may be elsewhere; the result and the
            logarithms of sums, over all rows.
        gradient: of the result.
    """
    query, key, value, result, log_sums = residuals
    rows, columns = blocks
    dtype, product = _exact(query.dtype, precision)
    # What the gradients of a row's logits have in common: Σ probability times its gradient, over all keys.
    common = (gradient.astype(dtype) * result).sum(-1, keepdims=True)

    def along_keys(query_gradient: Array, block: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        key, value = block

        def along_queries(
            totals: tuple[Array, Array], block: tuple[Array, ...]
        ) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
            query, gradient, log_sums, common = block
            weights = jnp.exp(product(query, key.mT) * scale - log_sums)
            logits_gradient = (weights * (product(gradient, value.mT) - common) * scale).astype(query.dtype)
            totals = (
                totals[0] + product(logits_gradient.mT, query),
                totals[1] + product(weights.astype(query.dtype).mT, gradient),
            )
            return totals, (product(logits_gradient, key),)

        start = (jnp.zeros(key.shape, dtype), jnp.zeros(value.shape, dtype))
        totals, (part,) = _over_blocks(along_queries, start, rows, (query, gradient, log_sums, common))
        return query_gradient + part, totals

    start = jnp.zeros(query.shape, dtype)
    query_gradient, (key_gradient, value_gradient) = _over_blocks(along_keys, start, columns, (key, value))
    return query_gradient, key_gradient, value_gradient


def _forward(
    query: Array, key: Array, value: Array, scale: float, precision: Precision, blocks: Blocks
) -> tuple[Array, Residuals]:
    result, log_sums = attend_in_blocks(query, key, value, scale, precision, blocks)
    result = result.astype(query.dtype)
    return result, (query, key, value, result, log_sums)


def _backward(
    scale: float, precision: Precision, blocks: Blocks, residuals: Residuals, gradient: Array
) -> tuple[Array, ...]:
    gradients = gradients_in_blocks(scale, precision, blocks, residuals, gradient)
    return tuple(each.astype(array.dtype) for each, array in zip(gradients, residuals[:3], strict=True))


blockwise_attention.defvjp(_forward, _backward)


def _exact(dtype: Any, precision: Precision) -> tuple[Any, Callable[[Array, Array], Array]]:
    """The type that sums are kept in, and a matrix product that gives it."""
    exact = jnp.promote_types(dtype, jnp.float32)
    return exact, functools.partial(jnp.matmul, precision=precision, preferred_element_type=exact)


def _over_blocks(
    step: Callable[[Any, tuple[Array, ...]], tuple[Any, tuple[Array, ...]]],
    carry: Any,
    block: int,
    arrays: tuple[Float[Array, "..."], ...],
) -> tuple[Any, tuple[Float[Array, "..."], ...]]:
    """`jax.lax.scan` along the rows (the last axis but one), a block of them at a time, what is left over included."""
    rows = arrays[0].shape[-2]
    whole = rows // block * block
    pieces: list[tuple[Array, ...]] = []
    if whole:
        stacked = tuple(
            jnp.moveaxis(array[..., :whole, :].reshape(*array.shape[:-2], -1, block, array.shape[-1]), -3, 0)
            for array in arrays
        )
        carry, blocks = jax.lax.scan(step, carry, stacked)
        pieces.append(
            tuple(jnp.moveaxis(piece, 0, -3).reshape(*piece.shape[1:-2], whole, piece.shape[-1]) for piece in blocks)
        )
    if whole < rows:
        carry, last = step(carry, tuple(array[..., whole:, :] for array in arrays))
        pieces.append(last)
    return carry, tuple(jnp.concatenate(parts, axis=-2) for parts in zip(*pieces, strict=True))
