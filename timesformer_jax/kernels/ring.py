"""Joint attention of a clip whose frames are spread over devices: keys and values travel round the ring of them.

Each device holds the queries of its frames. The keys and values of its neighbours come to it one after the other; what
it has found so far and what a neighbour's tokens give are joined by the logarithms of their sums, as the blocks of
blockwise.py are. A device holds two sets of keys and values at most, whatever the number of devices, and the matrix of
logits never. The backward pass goes round once more, the gradients of keys and values with them.
(Liu, Zaharia and Abbeel, arXiv 2310.01889.)
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from .blockwise import BLOCKS, Blocks, Precision, attend_in_blocks, gradients_in_blocks

Axes = tuple[str, ...]


def ring_attention(
    cls_qkv: Float[Array, "b 1 1 3 h k"],
    qkv: Float[Array, "b n t 3 h k"],
    axes: Axes,
    *,
    scale: float,
    precision: Precision = None,
    blocks: Blocks = BLOCKS,
) -> tuple[Float[Array, "b 1 1 h k"], Float[Array, "b n t h k"]]:
    """Every token, CLS among them, attends to all tokens of its clip.

    Args:
        cls_qkv: projections of CLS, which every device holds.
        qkv: projections of the patches, whose frames the devices share.
        axes: of the mesh, along which they are spread; their devices divide t.
        scale: of the logits.
        precision: of matrix products.
        blocks: how many queries and how many keys a block has.
    """
    qkv_rows = jnp.einsum("bntchk->cbhntk", qkv)
    cls_rows = jnp.einsum("bxychk->cbhxyk", cls_qkv)[..., 0, :]
    values = _round(qkv_rows[0], qkv_rows[1:], cls_rows[1:], axes, scale, precision, blocks)
    cls_values = spread_cls_attention(
        cls_qkv[..., :1, :, :], (cls_qkv[..., 1:, :, :], qkv[..., 1:, :, :]), scale=scale, precision=precision
    )
    return cls_values, jnp.einsum("bhntk->bnthk", values)


def spread_cls_attention(
    query: Float[Array, "b 1 1 1 h k"],
    key_values: tuple[Float[Array, "b 1 1 2 h k"], Float[Array, "b n t 2 h k"]],
    *,
    scale: float,
    precision: Precision = None,
) -> Float[Array, "b 1 1 h k"]:
    """CLS alone attends to itself and to the patches, which stay where they are.

    Args:
        query: of CLS.
        key_values: of CLS and of the patches.
        scale: of the logits.
        precision: of matrix products.
    """
    exact = jnp.promote_types(query.dtype, jnp.float32)
    product = functools.partial(jnp.einsum, precision=precision, preferred_element_type=exact)
    logits = [product("bhk,bnthk->bhnt", query[:, 0, 0, 0], x[..., 0, :, :]) * scale for x in key_values]
    largest = functools.reduce(jnp.maximum, (x.max((-2, -1), keepdims=True) for x in logits))
    weights = [jnp.exp(x - jax.lax.stop_gradient(largest)) for x in logits]
    sums = [
        product("bhnt,bnthk->bhk", w.astype(query.dtype), x[..., 1, :, :])
        for w, x in zip(weights, key_values, strict=True)
    ]
    total = weights[0].sum((-2, -1)) + weights[1].sum((-2, -1))
    values = ((sums[0] + sums[1]) / total[..., None]).astype(query.dtype)
    return values[:, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _round(
    query: Float[Array, "b h n t k"],
    key_value: Float[Array, "2 b h n t k"],
    cls_key_value: Float[Array, "2 b h 1 k"],
    axes: Axes,
    scale: float,
    precision: Precision,
    blocks: Blocks,
) -> Float[Array, "b h n t k"]:
    """Patches attend to CLS and to all patches."""
    return _forward(query, key_value, cls_key_value, axes, scale, precision, blocks)[0]


def _forward(
    query: Array, key_value: Array, cls_key_value: Array, axes: Axes, *settings: Any
) -> tuple[Array, tuple[Array, ...]]:
    def on_each(query: Array, key_value: Array, cls_key_value: Array) -> tuple[Array, Array]:
        rows, key_value = _rows(query), _rows(key_value)

        def attend(key_value: Array) -> tuple[Array, Array]:
            return attend_in_blocks(rows, key_value[0], key_value[1], *settings)

        def turn(carry: tuple[Any, Array], _: None) -> tuple[tuple[Any, Array], None]:
            found, key_value = carry
            key_value = _pass_on(key_value, axes)
            return (_join(found, attend(key_value)), key_value), None

        start = (_join(attend(cls_key_value), attend(key_value)), key_value)
        ((values, log_sums), _), _ = jax.lax.scan(turn, start, length=_devices(axes) - 1)
        return values.astype(query.dtype).reshape(query.shape), log_sums.reshape(*query.shape[:-1], 1)

    one, two, whole = _specs(axes)
    values, log_sums = _on_ring(on_each, axes, (one, two, whole), (one, one))(query, key_value, cls_key_value)
    return values, (query, key_value, cls_key_value, values, log_sums)


def _backward(
    axes: Axes, scale: float, precision: Precision, blocks: Blocks, residuals: tuple[Array, ...], gradient: Array
) -> tuple[Array, ...]:
    def on_each(*arrays: Array) -> tuple[Array, ...]:
        query, key_value, cls_key_value, result, log_sums, gradient = arrays
        rows, result, log_sums, gradient = map(_rows, (query, result, log_sums, gradient))

        def gradients(key_value: Array) -> tuple[Array, Array]:
            kept = (rows, key_value[0], key_value[1], result, log_sums)
            query_part, *parts = gradients_in_blocks(scale, precision, blocks, kept, gradient)
            return query_part, jnp.stack(parts)

        def turn(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
            query_gradient, key_value, total = carry
            query_part, part = gradients(key_value)
            # Once round, and the total is back where its keys and values live.
            return (query_gradient + query_part, _pass_on(key_value, axes), _pass_on(total + part, axes)), None

        query_gradient, cls_gradient = gradients(cls_key_value)
        start = (query_gradient, _rows(key_value), jnp.zeros_like(_rows(key_value), query_gradient.dtype))
        (query_gradient, _, total), _ = jax.lax.scan(turn, start, length=_devices(axes))
        found = (query_gradient, total, jax.lax.psum(cls_gradient, axes))
        return tuple(x.astype(y.dtype).reshape(y.shape) for x, y in zip(found, arrays[:3], strict=True))

    one, two, whole = _specs(axes)
    return _on_ring(on_each, axes, (one, two, whole, one, one, one), (one, two, whole))(*residuals, gradient)


_round.defvjp(_forward, _backward)


def _on_ring(function: Any, axes: Axes, inputs: Any, outputs: Any) -> Any:
    """A function of what each device of the ring holds; other axes of the mesh are left to the partitioner."""
    # Unchecked: the checker takes what starts as zeros for equal on all devices.
    return jax.shard_map(function, in_specs=inputs, out_specs=outputs, axis_names=set(axes), check_vma=False)


def _specs(axes: Axes) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
    """Of what holds a row for each patch, of two of these in one array, and of what every device holds."""
    return PartitionSpec(None, None, None, axes), PartitionSpec(None, None, None, None, axes), PartitionSpec()


def _devices(axes: Axes) -> int:
    return jax.lax.axis_size(axes)


def _rows(x: Float[Array, "*b n t k"]) -> Float[Array, "*b s k"]:
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def _pass_on(x: Array, axes: Axes) -> Array:
    """Gives what each device holds to the next."""
    count = _devices(axes)
    return jax.lax.ppermute(x, axes, [(i, (i + 1) % count) for i in range(count)])


def _join(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """The attention to two sets of tokens together: values, and logarithms of sums."""
    log_sums = jnp.logaddexp(one[1], other[1])
    return one[0] * jnp.exp(one[1] - log_sums) + other[0] * jnp.exp(other[1] - log_sums), log_sums
