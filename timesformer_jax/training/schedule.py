"""The learning rate of each step."""

from collections import Counter

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from .recipe import Schedule


def remarks_on(schedule: Schedule, *, steps_per_epoch: float, total_steps: int) -> list[str]:
    """Sentences on what of a schedule lies beyond the end of its run.

    Args:
        schedule: its settings.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: of the run.
    """
    remarks: list[str] = []
    rate = learning_rate_schedule(schedule, 1.0, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    warmup, falls = _steps_of_warmup(schedule, steps_per_epoch), _steps_of_falls(schedule, steps_per_epoch)
    if warmup >= total_steps:
        reached = float(jnp.asarray(rate(total_steps - 1)))
        remarks.append(
            f"the warm-up of {warmup} steps (schedule.warmup_epochs) does not end within the run of {total_steps}: the "
            f"learning rate reaches {reached:.3g} of optimizer.learning_rate, in the last step"
        )
    late = [epoch for epoch, step in falls.items() if step >= total_steps]
    if late and schedule.kind == "milestones":
        remarks.append(
            f"the run of {total_steps} steps ends after {total_steps / steps_per_epoch:.3g} epochs: the learning rate "
            f"does not fall at {', '.join(f'{epoch:g}' for epoch in late)} (schedule.milestones)"
        )
    return remarks


def _steps_of_warmup(schedule: Schedule, steps_per_epoch: float) -> int:
    return round(schedule.warmup_epochs * steps_per_epoch)


def _steps_of_falls(schedule: Schedule, steps_per_epoch: float) -> dict[float, int]:
    """The step of each milestone."""
    return {epoch: round(epoch * steps_per_epoch) for epoch in schedule.milestones}


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
    warmup = _steps_of_warmup(schedule, steps_per_epoch)
    if schedule.kind == "constant":
        body = optax.constant_schedule(highest)
    elif schedule.kind == "milestones":
        steps = Counter(_steps_of_falls(schedule, steps_per_epoch).values())  # of short epochs one may have several
        falls = {step: schedule.factor**falling for step, falling in steps.items()}
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
