"""The layer as training computes it: two projections with nothing but a factor between them are multiplied first."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..kernels.cpu import matrix_product
from ..schemes import AttentionStep
from ..sharding import axes_in_use, devices_along
from .layers import TimesformerAttention, TimesformerLayer


class HeadValues(TimesformerAttention):
    """Attention that gives the heads' values back as they are, (b, n, t, h, k)."""

    def output(self, values: Any) -> Any:
        """Leaves the output projection to `MergedLayer`."""
        return values


class MergedLayer(TimesformerLayer):
    """`TimesformerLayer` with fewer operations in training, and an array less to keep for the backward pass.

    The output projection of the step over time is followed by stochastic depth, a factor for each row, and by the
    step's dense layer. Their kernels are multiplied first: a product less of the tokens, two less in the backward pass.
    """

    def attention_class(self, step: AttentionStep, patches: Float[Array, "b n t d"]) -> type[TimesformerAttention]:
        """Leaves the output projection out where that saves work: with more tokens on a device than they are wide."""
        devices = devices_along((*axes_in_use("batch"), *axes_in_use("parallel")))
        saves = math.prod(patches.shape[:3]) > devices * self.config.hidden_size
        # Dropout would act between the two projections.
        merges = step.groups == "time" and saves and self.config.hidden_dropout_prob == 0 and not self.is_initializing()
        return HeadValues if merges else super().attention_class(step, patches)

    def finish(self, step: AttentionStep, residuals: list[Array | None], scale: Array | int) -> list[Any]:
        """Both projections and stochastic depth, with one product of the tokens."""
        values = residuals[1]
        if values is None or values.ndim == 4:
            return super().finish(step, residuals, scale)
        params: Any = self.variables["params"]
        exact = jnp.promote_types(self.dtype, jnp.float32)
        output, dense = jax.tree.map(
            lambda leaf: leaf.astype(exact), (params[step.attention]["output"], params[step.dense])
        )
        kernel, bias = (
            jnp.tensordot(leaf, dense["kernel"], 1, precision=self.precision).astype(self.dtype)
            for leaf in (output["kernel"], output["bias"])
        )
        contracted = (((3, 4), (0, 1)), ((), ()))
        residual = matrix_product(values, kernel, contracted, precision=self.precision) + bias
        return [None, residual * scale + dense["bias"].astype(self.dtype)]
