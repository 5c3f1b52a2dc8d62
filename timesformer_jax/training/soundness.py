"""Whether a state is sound: finite throughout, with finite scores. One that is not is neither saved nor exported.

The loss of a step tells of the weights before it. What the step itself has done to them shows in the next one only: too
late for a checkpoint that is due between the two, and after the last step never.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt8

from ..sharding import clip_sharding, use_mesh
from .job import Job
from .state import TrainState, all_finite


def why_unsound(job: Job, state: TrainState, frames: UInt8[Array, "b t h w c"] | None = None) -> str | None:
    """Says what is wrong with a state; None where nothing is.

    The check costs a pass over the state and a forward pass of as many clips as the gradient is computed of at once, by
    the program that validation runs. All processes have to ask.

    Args:
        job: the run.
        state: after any step.
        frames: the clips of a batch, on the devices; random ones when None.
    """
    for name, finite in jax.device_get(_finite_parts(state)).items():
        if not finite:
            return f"{name} is not finite"
    clips = _clips(job, frames)
    for name, params in (("model", state.params), ("moving average", state.ema)):
        with use_mesh(job.mesh):
            if params is not None and not jax.jit(all_finite)(job.predict(params, clips)):
                return f"the {name} has finite weights but gives scores that are not finite"
    return None


@jax.jit
def _finite_parts(state: TrainState) -> dict[str, Bool[Array, ""]]:
    """Whether the parts of a state are finite, by name."""
    parts = {
        "one of the weights": state.params,
        "the moving average of a weight": state.ema,
        "the state of the optimizer": state.optimizer,
    }
    return {name: all_finite(part) for name, part in parts.items()}


def _clips(job: Job, frames: Array | None) -> Array:
    """As many clips as validation takes at once, each the only view of its video, in the same place on the devices."""
    parts, clip = job.config.accumulation, job.start.clip
    shape = (job.config.batch_size // parts, 1, clip.num_frames, clip.height, clip.width, 3)
    place = clip_sharding(job.mesh, shape)
    if frames is not None:
        return jax.jit(lambda batch: batch[::parts, None], out_shardings=place)(frames)
    draw = jax.jit(lambda key: jax.random.randint(key, shape, 0, 256, jnp.uint8), out_shardings=place)
    return draw(jax.random.key(np.uint32(0)))
