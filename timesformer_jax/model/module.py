"""What every Flax module here is made with: the config, types of numbers, and how kernels and norms are made."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array

from ..config import AttentionImplementation, TimesformerConfig
from ..kernels.cpu import computed_before, matrix_product
from .attention import Precision
from .remat import Remat


class TimesformerModule(nn.Module):
    """What every module here is made with.

    Attributes:
        config: architecture.
        dtype: of the computation.
        param_dtype: of newly made parameters.
        precision: of matrix products ("highest" for parity: float32 on a TPU is bfloat16 otherwise).
        attention_implementation: see `choose_implementation` in kernels/choice.py.
        remat: what the backward pass computes again instead of keeping it (see remat.py).
    """

    config: TimesformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    attention_implementation: AttentionImplementation = "auto"
    remat: Remat = "none"

    def numerics(self) -> dict[str, Any]:
        """The arguments that Flax's own layers have, too."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype, "precision": self.precision}

    def settings(self) -> dict[str, Any]:
        """What a module hands on to those inside it."""
        others = {"attention_implementation": self.attention_implementation, "remat": self.remat}
        return {"config": self.config, **self.numerics(), **others}

    def weight_init(self) -> initializers.Initializer:
        """How kernels and embeddings start."""
        # The original cuts at -2 and 2 themselves, not at two standard deviations.
        deviation = self.config.initializer_range
        if deviation == 0:
            return initializers.zeros
        return initializers.truncated_normal(deviation, lower=-2 / deviation, upper=2 / deviation)

    def dense(
        self, features: int | tuple[int, ...], name: str, *, axis: int | tuple[int, ...] = -1, **options: Any
    ) -> nn.DenseGeneral:
        """A matrix product and a bias."""
        options = {"kernel_init": self.weight_init(), "dot_general": matrix_product} | self.numerics() | options
        return nn.DenseGeneral(features, axis=axis, name=name, **options)

    def layer_norm(self, name: str, **options: Any) -> Callable[[Array], Array]:
        """A LayerNorm, kept apart from the product after it."""
        # Not the "fast" variance E[x²] - E[x]², which cancels.
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype} | options
        norm = nn.LayerNorm(epsilon=self.config.layer_norm_eps, use_fast_variance=False, name=name, **options)
        return lambda tokens: computed_before(norm(tokens))


def uniform_init(bound: float) -> initializers.Initializer:
    """Uniform between -bound and bound."""

    def init(key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> Array:
        del out_sharding  # parameters carry no metadata here
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
