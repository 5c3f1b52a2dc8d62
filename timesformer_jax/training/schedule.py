"""The learning rate of each step."""

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from .recipe import Schedule


def learning_rate_schedule(
    schedule: Schedule, highest: float, *, steps_per_epoch: float, total_steps: int
) -> optax.Schedule:
    """The learning rate as a function of the number of steps taken.

    Args:
        schedule: its settings.
        highest: the learning rate of which the schedule gives multiples.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: of the run; the cosine ends there.
    """
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if schedule.kind == "constant":
        body = optax.constant_schedule(highest)
    elif schedule.kind == "milestones":
        falls = {round(epoch * steps_per_epoch): schedule.factor for epoch in schedule.milestones}
        body = optax.piecewise_constant_schedule(highest, falls)
    else:
        body = optax.cosine_decay_schedule(highest, max(1, total_steps - warmup), schedule.final)
    rise = optax.linear_schedule(schedule.warmup_start * highest, highest, max(1, warmup))
    # Milestones are epochs of the run; a cosine begins where the warm-up ends.
    start = warmup if schedule.kind == "cosine" else 0

    def learning_rate(step: ArrayLike) -> Array:
        # In floating point from the start: integer steps would make float32 even where float64 is wanted.
        count = jnp.asarray(step, float)
        return jnp.where(count < warmup, rise(count), body(count - start))

    return learning_rate
