"""The state that a training step hands on to the next, and the metrics of a step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ..checkpoints.mapping import Params


@flax.struct.dataclass
class TrainState:
    """The state that each step takes from the one before.

    Attributes:
        step: steps taken.
        params: the parameters.
        optimizer: state of the optimizer.
        ema: moving average of the parameters; None where none is kept.
    """

    step: Int[Array, ""]
    params: Params
    optimizer: Any
    ema: Params | None

    @classmethod
    def create(cls, params: Params, optimizer: optax.GradientTransformation, *, ema: bool) -> "TrainState":
        """The state before the first step."""
        # A copy: the step gives its state's memory away, once for each array.
        average = jax.tree.map(jnp.copy, params) if ema else None
        return cls(step=jnp.zeros((), jnp.int32), params=params, optimizer=optimizer.init(params), ema=average)

    @property
    def trained(self) -> Params:
        """The parameters that are evaluated and exported: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


@flax.struct.dataclass
class StepMetrics:
    """The metrics of one step, taken before its update where nothing else is said.

    Attributes:
        loss: mean over the batch.
        accuracy: share of clips whose label had the highest logit.
        gradient_norm: of the whole gradient, before clipping.
        learning_rate: of this step.
        finite: whether all parameters are finite after the update.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]
    finite: Bool[Array, ""]


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether no array of a tree holds a NaN or an infinity."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)], bool).all()
