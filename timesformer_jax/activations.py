"""The MLP's activations, by the names that a config.json uses (Transformers 4.56.2, activations.py)."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def _gelu_erf(x: Array) -> Array:
    # Not `jax.nn.gelu`, whose erfc takes four times as long on a CPU. Where they differ (far below zero, where 1 + erf
    # cancels) PyTorch computes as here, like this not in bfloat16.
    exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * exact * (1 + jax.lax.erf(exact * math.sqrt(0.5)))).astype(x.dtype)


def _gelu_tanh(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


def _gelu_fast(x: Array) -> Array:
    # sqrt(2 / pi) to ten digits, as checkpoints with this name were trained.
    return 0.5 * x * (1 + jnp.tanh(0.7978845608 * x * (1 + 0.044715 * x * x)))


def _laplace(x: Array, mean: float = 0.707107, deviation: float = 0.282095) -> Array:
    # The constants of Mega (arXiv 2209.10655), rounded there to six digits.
    return 0.5 * (1 + jax.lax.erf((x - mean) / (deviation * math.sqrt(2))))


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "gelu": _gelu_erf,
        "gelu_10": lambda x: jnp.clip(_gelu_erf(x), -10, 10),
        "gelu_accurate": _gelu_tanh,
        "gelu_fast": _gelu_fast,
        "gelu_new": _gelu_tanh,
        "gelu_python": _gelu_erf,
        "gelu_pytorch_tanh": _gelu_tanh,
        "laplace": _laplace,
        "leaky_relu": jax.nn.leaky_relu,
        "linear": lambda x: x,
        "mish": jax.nn.mish,
        "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
        "relu": jax.nn.relu,
        "relu2": lambda x: jnp.square(jax.nn.relu(x)),
        "relu6": jax.nn.relu6,
        "selu": jax.nn.selu,
        "sigmoid": jax.nn.sigmoid,
        "silu": jax.nn.silu,
        "swish": jax.nn.silu,
        "tanh": jnp.tanh,
    }
)
"""Every activation of Transformers that has no parameters of its own, and selu, which its documentation names."""
