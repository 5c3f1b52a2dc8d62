"""Types of numbers: the names that commands and recipes use, and 64-bit types, which JAX must be asked to allow."""

from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError

if TYPE_CHECKING:
    from jax.typing import DTypeLike

DTypeName = Literal["float32", "bfloat16", "float64"]
Weights = Literal["float", "int8"]


def enable_x64(dtype: str) -> None:
    """Turns on 64-bit types for a command that asks for them."""
    if dtype == "float64":
        import jax

        jax.config.update("jax_enable_x64", True)


def require_x64(*dtypes: "DTypeLike | None") -> None:
    """Checks that JAX can compute in these types.

    Raises:
        ConfigError: one has 64 bits while jax_enable_x64 is off.
    """
    import jax
    import jax.numpy as jnp

    for dtype in dtypes:
        if dtype is not None and jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
            raise ConfigError(
                f'{jnp.dtype(dtype).name} needs jax.config.update("jax_enable_x64", True) before JAX is first used '
                "(a command: --dtype float64); without it every array would silently be float32. A checkpoint of "
                "float64 can be read as another param_dtype, such as float32."
            )
