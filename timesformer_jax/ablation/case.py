"""One step of an ablation, in a process of its own: what a variant costs, or what it learns from one seed.

    python -m timesformer_jax.training.ablation_case    # reads a pickled `Case`, answers with a line of JSON

A process of its own, since one that runs out of memory is killed, and must not take the others along; and since each
then finds the machine as the first did.
"""

import dataclasses
import json
import logging
import os
import pickle
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..data.motion import OPPOSITE, within_pairs
from ..errors import TimesformerError, TrainingError, first_line
from ..evaluation.evaluate import Views, evaluate
from ..model.summary import summarize
from ..sharding import clip_sharding, shardings_of, use_mesh
from ..support.dtypes import enable_x64
from ..training.job import Job, make_job
from ..training.loop import train
from ..training.recipe import TrainConfig
from ..training.run_directory import RunDirectory

_SECONDS, _LEAST_CALLS = 3.0, 3
"""For so long, and at least so often, what is timed is done."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is to be done.

    Attributes:
        recipe: of the variant.
        run: directory to train in; None to measure what the variant costs.
        views: of each video, for the evaluation.
    """

    recipe: TrainConfig
    run: str | None
    views: Views


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of it: values, or an error; neither where training was asked to stop before its last step.

    Attributes:
        values: by name.
        error: a sentence.
    """

    values: dict[str, Any] | None = None
    error: str | None = None


def attempt(case: Case) -> Answer:
    """Measures or trains. What a person can put right, and a lack of memory, is an answer."""
    try:
        values = measure(case.recipe) if case.run is None else learn(case.recipe, Path(case.run), case.views)
        return Answer(values=values)
    except (TimesformerError, TrainingError) as error:
        return Answer(error=str(error))
    except MemoryError:
        return Answer(error="there is not enough memory.")
    except OSError as error:
        return Answer(error=f"{error.filename or 'a file'}: {error.strerror or error}.")
    except jax.errors.JaxRuntimeError as error:  # such as RESOURCE_EXHAUSTED, of an accelerator
        return Answer(error=first_line(error))


def learn(recipe: TrainConfig, run: Path, views: Views) -> dict[str, Any] | None:
    """Trains, or goes on with it, and evaluates: accuracies, and where classes are motions the share within pairs."""
    # Validated once, at the end: on the way it would take time, unequal for the variants.
    trained = train(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, validation=None)), run)
    if not trained.finished:
        return None
    evaluation = evaluate(
        run,
        recipe.data,
        views=views,
        batch_size=recipe.batch_size // recipe.accumulation,
        dtype=recipe.model.dtype,
        mesh=recipe.mesh,
        training_weights=None,
    )
    values = {**evaluation.summary(), "steps": trained.step, "loss": trained.metrics["loss"]}
    if all(OPPOSITE.get(name) in evaluation.classes for name in evaluation.classes):
        values["within_pairs"] = within_pairs(evaluation.classes, evaluation.confusion)
    return values


def measure(recipe: TrainConfig) -> dict[str, Any]:
    """What a variant costs.

    Returns:
        parameters; multiply_adds of one clip; of the training step and of inference (the model as evaluated, one view)
        clips_per_second, the median of some calls on clips that are in memory already, and memory in bytes, for which
        the compiler's analysis of the program is asked: arguments, results and temporaries on one device. Also
        device: its kind.
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

    def act() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    with use_mesh(job.mesh):
        return {"clips_per_second": shape[0] / seconds_each(act), "memory": program_memory(step)}


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


def seconds_each(act: Callable[[], Any]) -> float:
    """The median time of a call, results waited for, after one to warm up."""
    jax.block_until_ready(act())
    times: list[float] = []
    while len(times) < _LEAST_CALLS or sum(times) < _SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(act())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def program_memory(program: Any) -> int:
    """Bytes that a compiled program needs on a device: arguments, results that are not in their place, temporaries."""
    found = program.memory_analysis()
    outside = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return outside + found.temp_size_in_bytes


def main() -> None:
    """Answers the process that has started this one."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports its progress there
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed on the way is no answer
    case: Case = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    enable_x64(case.recipe.model.dtype)
    print(json.dumps(dataclasses.asdict(attempt(case))), file=answers, flush=True)


def _end_with_parent() -> None:
    """Stops this process, as a request to stop does, once nobody is there to hear the answer."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
