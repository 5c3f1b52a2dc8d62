"""Types of numbers: the names that commands and recipes use, and 64-bit types, which JAX must be asked to allow."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..errors import ConfigError

DTypeName = Literal["float32", "bfloat16", "float64"]


def enable_x64(dtype: str) -> None:
    """Turns on 64-bit types for a command that asks for them."""
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)


def require_x64(*dtypes: DTypeLike | None) -> None:
    """Checks that JAX can compute in these types.

    Raises:
        ConfigError: one has 64 bits while jax_enable_x64 is off.
    """
    for dtype in dtypes:
        if dtype is not None and jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
            raise ConfigError(
                f'{jnp.dtype(dtype).name} needs jax.config.update("jax_enable_x64", True) before JAX is first used '
                "(a command: --dtype float64); without it every array would silently be float32. A checkpoint of "
                "float64 can be read as another param_dtype, such as float32."
            )
