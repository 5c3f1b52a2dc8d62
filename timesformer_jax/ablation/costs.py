"""What a recipe costs: its parameters, multiply-adds, and the measured speed and memory of training and inference."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..model.summary import summarize
from ..sharding import clip_sharding, shardings_of, use_mesh
from ..training.job import Job, make_job
from ..training.recipe import TrainConfig
from ..training.run_directory import RunDirectory

_SECONDS, _LEAST_CALLS = 3.0, 3
"""What is timed is called for so many seconds, and at least so often."""


def measure_cost(recipe: TrainConfig) -> dict[str, Any]:
    """Measures what a recipe costs.

    Returns:
        parameters; multiply_adds of one clip; of the training step (train_) and of inference (inference_: the model as
        evaluated, one view) clips_per_second, the median of some calls on clips that are in memory already, and memory
        in bytes, by the compiler's analysis: arguments, results and temporaries on one device; device, its kind.
    """
    with tempfile.TemporaryDirectory() as temporary:
        job = make_job(recipe, RunDirectory(Path(temporary)))
        config = job.start.model.config
        summary = summarize(config)
        values = {"parameters": summary.parameters, "multiply_adds": summary.multiply_adds}
        values |= {f"train_{name}": value for name, value in _measure_step(job).items()}
        values |= {f"inference_{name}": value for name, value in _measure_predict(job).items()}
        return values | {"device": jax.devices()[0].device_kind}


def _measure_step(job: Job) -> dict[str, float]:
    step: Any = job.compiled_step()
    state, clip = job.initial_state(), job.start.clip
    shape = (job.config.batch_size, clip.num_frames, clip.height, clip.width, 3)
    batch = job.place({"frames": _noise(shape), "labels": np.arange(shape[0], dtype=np.int32) % len(job.classes)})

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    with use_mesh(job.mesh):
        return {"clips_per_second": shape[0] / seconds_each(call), "memory": program_memory(step)}


def _measure_predict(job: Job) -> dict[str, float]:
    params, clip = job.initial_state().params, job.start.clip
    shape = (job.config.batch_size // job.config.accumulation, 1, clip.num_frames, clip.height, clip.width, 3)
    frames = jax.device_put(_noise(shape), clip_sharding(job.mesh, shape))
    params = jax.device_put(params, shardings_of(params, job.mesh))
    jitted: Any = job.predict
    with use_mesh(job.mesh):
        predict = jitted.lower(params, frames).compile()
        seconds = seconds_each(lambda: predict(params, frames))
        return {"clips_per_second": shape[0] / seconds, "memory": program_memory(predict)}


def _noise(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def seconds_each(call: Callable[[], Any]) -> float:
    """The median time of a call until its results are there, after one call to warm up."""
    jax.block_until_ready(call())
    times: list[float] = []
    while len(times) < _LEAST_CALLS or sum(times) < _SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def program_memory(program: Any) -> int:
    """Bytes that a compiled program needs on a device: arguments, results outside their memory, and temporaries."""
    found = program.memory_analysis()
    outside = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return outside + found.temp_size_in_bytes
