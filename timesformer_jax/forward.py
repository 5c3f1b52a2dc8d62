"""Frames to logits: a folded model, its parameters on the device, and a compiled program for each size of batch."""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from .checkpoints.mapping import Params
from .compilation import bucket
from .folding import InferenceModel, folded_shapes
from .quantization import apply, quantized_shapes

Weights = Literal["float", "int8"]
Variables = dict[str, Params]
Clips = UInt8[np.ndarray, "b t h w 3"] | Float32[np.ndarray, "b t h w c"]


class Forward:
    """Clips to logits.

    Attributes:
        module: the folded model.
        batch_size: how many clips go to the device together, at most.
    """

    def __init__(
        self, module: InferenceModel, variables: Variables | Future[Variables], batch_size: int | None = None
    ) -> None:
        """Takes what `fold_for_inference` or `quantize` made, or the promise of it.

        Args:
            module: the folded model.
            variables: {"params": ...}, with "scales" if quantized.
            batch_size: None takes 1 on a CPU, where larger batches are no faster, and 8 elsewhere.
        """
        self.module = module
        self.batch_size = batch_size or (1 if jax.default_backend() == "cpu" else 8)
        self._variables = variables

    @property
    def variables(self) -> Variables:
        """The parameters, once they are there; raises what reading them raised."""
        return self._variables.result() if isinstance(self._variables, Future) else self._variables

    def __call__(self, clips: Clips) -> Float[np.ndarray, "b labels"]:
        """Logits of any number of clips, batch by batch; the last is padded to a size that is compiled."""
        variables, count = self.variables, len(clips)
        rows: list[Any] = []
        for start in range(0, count, self.batch_size):
            batch = clips[start : start + self.batch_size]
            padding = bucket(len(batch), self.batch_size) - len(batch)
            if padding:
                batch = np.concatenate([batch, np.zeros_like(batch, shape=(padding, *batch.shape[1:]))])
            rows.append(compute_logits(self.module, variables, batch))
        return np.concatenate([np.asarray(row) for row in rows])[:count]


def compile_ahead(
    module: InferenceModel, weights: Weights, clip_shape: tuple[int, ...], count: int = 1
) -> threading.Thread:
    """Starts to compile for batches of `count` clips, while parameters and video are still being read."""
    dtype = jnp.float32 if module.pixel_centre is None else jnp.uint8
    shapes = folded_shapes(module)
    variables = quantized_shapes(shapes) if weights == "int8" else {"params": shapes}
    frames = jax.ShapeDtypeStruct((count, *clip_shape), dtype)

    def compile() -> None:
        compute_logits.lower(module, variables, frames).compile()

    # No daemon: Python's end in the middle of a compilation would abort the process.
    thread = threading.Thread(target=_quietly(compile), name="compile")
    thread.start()
    return thread


def _quietly(task: Callable[[], object]) -> Callable[[], None]:
    """What fails here fails again, and is told, when the result is needed."""

    def run() -> None:
        try:
            task()
        except Exception:  # noqa: BLE001
            return

    return run


@functools.partial(jax.jit, static_argnums=0)
def compute_logits(
    module: InferenceModel, variables: Variables, frames: Float[Array, "b t h w c"] | UInt8[Array, "b t h w c"]
) -> Float[Array, "b labels"]:
    """The compiled function; equal models share it."""
    return apply(module, variables, frames)
