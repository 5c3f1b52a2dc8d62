"""Matrix products as the device at hand makes them fastest; the numbers do not depend on it but for rounding."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..sharding import axes_in_use, on_cpu


def matrix_product(
    tokens: Float[Array, "..."],
    kernel: Float[Array, "..."],
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Float[Array, "..."]:
    """`jax.lax.dot_general` of a dense layer, on a CPU as the product of two matrices.

    XLA's gradient of a product with several axes (heads and their width, say) goes over transposed copies on a CPU, and
    is slower by a half. On a TPU merging axes moves more bytes, and where axes are spread over devices it would gather
    them.

    Args:
        tokens: the contracted axes are its last.
        kernel: the contracted axes are its first.
        dimension_numbers: as `jax.lax.dot_general` takes them, without batch axes.
        precision: of the product.
        preferred_element_type: of the result.
    """
    axes = dimension_numbers[0][0]
    options: Any = {"precision": precision, "preferred_element_type": preferred_element_type}
    if not on_cpu() or any(axes_in_use(name) for name in ("parallel", "attended", "heads", "mlp")):
        return jax.lax.dot_general(tokens, kernel, dimension_numbers, **options)
    kept, features = tokens.shape[: -len(axes)], kernel.shape[len(axes) :]
    inputs = math.prod(kernel.shape[: len(axes)])
    rows, columns = math.prod(kept), math.prod(features)
    result = jnp.matmul(tokens.reshape(rows, inputs), kernel.reshape(inputs, columns), **options)
    return result.reshape(*kept, *features)


@jax.custom_jvp
def computed_before(tokens: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the tokens as they are, kept apart from the product that takes them; under differentiation nothing more.

    On a CPU, XLA else makes LayerNorm and a large product after it one call of YNNPACK, which is slower than the two on
    some processors, and never faster. This is an operation that it does not know (`jax.lax.optimization_barrier` is
    gone by then). In training its gradient would cost something.
    """
    return jax.lax.clamp(jnp.array(-jnp.inf, tokens.dtype), tokens, jnp.array(jnp.inf, tokens.dtype))


@computed_before.defjvp
def _unchanged(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return primals[0], tangents[0]
