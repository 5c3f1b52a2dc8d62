"""Frames to logits: a folded model, its parameters on the device, and a compiled program for each size of batch."""

import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, UInt8

from ..checkpoints.mapping import Params
from ..sharding import clip_sharding, clips_at_once, shardings_of, use_mesh
from ..support.compilation import bucket, compiler_options
from ..support.dtypes import Weights
from .folding import InferenceModel, folded_shapes
from .quantization import apply, quantized_shapes

Variables = dict[str, Params]
Clips = UInt8[np.ndarray, "b t h w 3"] | Float32[np.ndarray, "b t h w c"]


class Forward:
    """Computes the logits of clips.

    Attributes:
        module: the folded model.
        batch_size: how many clips go to the devices together, at most.
    """

    def __init__(
        self,
        module: InferenceModel,
        variables: Variables | Future[Variables],
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """Takes the parameters that `fold_for_inference` or `quantize` made, or a future that gives them.

        Args:
            module: the folded model.
            variables: {"params": ...}, with "scales" if quantized.
            batch_size: None takes 1 on a CPU, where larger batches are no faster, and 8 elsewhere, for each of the
                devices that clips are spread over; another number is raised to a multiple of theirs.
            mesh: devices that share the work; None is one.
        """
        self.module = module
        self._mesh = mesh
        self._places = 1 if mesh is None else clips_at_once(mesh)
        # Whole numbers on each device, so that only the last batch has to be filled up.
        on_each = -(-batch_size // self._places) if batch_size else 1 if jax.default_backend() == "cpu" else 8
        self.batch_size = on_each * self._places
        self._variables = variables

    @functools.cached_property
    def variables(self) -> Variables:
        """The parameters on the devices, once they are read; raises what reading them raised."""
        variables = self._variables.result() if isinstance(self._variables, Future) else self._variables
        if self._mesh is not None:
            variables = jax.device_put(variables, shardings_of(variables, self._mesh))
        self._variables = variables  # the only reference: what was placed elsewhere can go
        return variables

    def __call__(self, clips: Clips) -> Float[np.ndarray, "b labels"]:
        """Gives the logits of any number of clips, batch by batch; the last is padded to a size that is compiled."""
        variables, count = self.variables, len(clips)
        rows: list[Any] = []
        for start in range(0, count, self.batch_size):
            batch = clips[start : start + self.batch_size]
            on_each = bucket(-(-len(batch) // self._places), self.batch_size // self._places)
            padding = on_each * self._places - len(batch)
            if padding:
                batch = np.concatenate([batch, np.zeros_like(batch, shape=(padding, *batch.shape[1:]))])
            with _on(self._mesh):
                rows.append(compiled_forward()(self.module, variables, _placed(batch, self._mesh)))
        return np.concatenate([np.asarray(row) for row in rows])[:count]


def compile_ahead(
    module: InferenceModel, weights: Weights, clip_shape: tuple[int, ...], mesh: Mesh | None = None
) -> threading.Thread:
    """Starts to compile for single clips (one on each device), while parameters and video are still being read."""
    dtype = jnp.float32 if module.pixel_centre is None else jnp.uint8
    shapes = folded_shapes(module)
    variables: Any = quantized_shapes(shapes) if weights == "int8" else {"params": shapes}
    shape = (1 if mesh is None else clips_at_once(mesh), *clip_shape)
    frames = jax.ShapeDtypeStruct(shape, dtype)
    if mesh is not None:
        variables = jax.tree.map(_shape_on, variables, shardings_of(variables, mesh))
        frames = _shape_on(frames, clip_sharding(mesh, shape))

    forward = compiled_forward()  # here: in a thread it would race for the devices with whoever asks first

    def compile() -> None:
        with _on(mesh):
            forward.lower(module, variables, frames).compile()

    # It is no daemon: if Python ended in the middle of a compilation, the process would abort.
    thread = threading.Thread(target=_quietly(compile), name="compile")
    thread.start()
    return thread


def _on(mesh: Mesh | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if mesh is None else use_mesh(mesh)


def _placed(batch: Clips, mesh: Mesh | None) -> Any:
    return batch if mesh is None else jax.device_put(batch, clip_sharding(mesh, batch.shape))


def _shape_on(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _quietly(task: Callable[[], object]) -> Callable[[], None]:
    """A task without its errors: what fails here fails again, and is reported, when the result is needed."""

    def run() -> None:
        try:
            task()
        except Exception:  # noqa: BLE001
            return

    return run


@functools.cache
def compiled_forward() -> Any:
    """Gives `compute_logits` under `jax.jit`, shared by equal models; importing this must not start the devices."""
    return jax.jit(compute_logits, static_argnums=0, compiler_options=compiler_options())


def compute_logits(
    module: InferenceModel, variables: Variables, frames: Float[Array, "b t h w c"] | UInt8[Array, "b t h w c"]
) -> Float[Array, "b labels"]:
    """Computes the logits of a batch of clips."""
    return apply(module, variables, frames)
