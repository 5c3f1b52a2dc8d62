"""The training loop: `train(config, directory)` starts a run, or goes on with it, whatever happened to it before."""

import contextlib
import dataclasses
import math
import time
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..checkpoints.mapping import Params
from ..data.pipeline import refuse_in_worker
from ..errors import TrainingError
from ..model.modeling import TimesformerForVideoClassification
from ..schemes import unknown_to_transformers
from ..sharding import whole
from ..support.distributed import announce, announce_progress, from_first, is_first, wait_for_all
from ..support.progress import Display, Observer
from ..video.processing import VideoProcessor
from .checkpointing import Checkpoints
from .job import Job, make_job
from .metrics import MetricsWriter
from .performance import Clock, Profiler
from .recipe import TrainConfig
from .run_directory import RunDirectory
from .step import StepMetrics, TrainState
from .stopping import StopRequest
from .validation import Validation, falls_into


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What came of a run so far.

    Attributes:
        finished: whether the last step was taken; False after a request to stop.
        step: steps taken.
        metrics: of the last step and the last validation.
        model: the module.
        params: the trained parameters; the moving average where the recipe keeps one.
        processor: the preprocessing of its frames.
        export: the directory that Transformers loads, or a converted one where it has no such model; None while the run
            is not finished.
    """

    finished: bool
    step: int
    metrics: dict[str, float]
    model: TimesformerForVideoClassification
    params: Params = dataclasses.field(repr=False)
    processor: VideoProcessor
    export: Path | None


def train(
    config: TrainConfig,
    directory: str | PathLike[str],
    *,
    observer: Observer | None = None,
    max_seconds: float | None = None,
    profile: bool = False,
    stop: StopRequest | None = None,
) -> TrainResult:
    """Trains a model as a recipe says, or goes on where an earlier call stopped or was killed.

    Args:
        config: the recipe.
        directory: of the run (see run_directory.py).
        observer: told of every step, instead of a bar or lines on standard error.
        max_seconds: save and return when so much time has passed since the call.
        profile: write a trace of a few steps for xprof.
        stop: asks the loop to save and return; for callers that listen to signals before they call this.

    Raises:
        RunError: the directory belongs to another run.
        DataError: the videos can't be used.
        CheckpointError: the checkpoint to start from can't be loaded.
        TrainingError: the loss is no longer finite.
        OSError: a checkpoint can't be written.
    """
    refuse_in_worker()
    stop = stop or StopRequest()
    deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
    run = RunDirectory(Path(directory).expanduser().absolute())
    with contextlib.ExitStack() as held:
        held.enter_context(stop.listening())
        if is_first():
            held.enter_context(run.locked())
            run.claim(config)
        wait_for_all("claimed the run")
        run.require_claimed()
        job = make_job(config, run)
        checkpoints = Checkpoints(run.checkpoints, config.checkpoints)
        try:
            state, metrics, finished = _go_on(job, checkpoints, _Controls(stop, deadline, observer, profile))
        finally:
            checkpoints.close()
        if finished:
            _export(job, state)
        return TrainResult(
            finished=finished,
            step=int(state.step),
            metrics=metrics,
            model=job.start.model,
            params=state.trained,
            processor=job.start.processor,
            export=run.export if finished else None,
        )


@dataclasses.dataclass(frozen=True)
class _Controls:
    """What the caller of `train` has a say in, beside the recipe."""

    stop: StopRequest
    deadline: float
    observer: Observer | None
    profile: bool


def _go_on(job: Job, checkpoints: Checkpoints, controls: _Controls) -> tuple[TrainState, dict[str, float], bool]:
    """Does what is left of a run: the last state, which is saved, the last metrics, and whether that was all."""
    state, saved = _restore(job, checkpoints)
    step = int(state.step)
    validation = Validation(job, controls.stop, checkpoints.accuracies)
    recent = validation.take_up(step)
    if step == job.total and not validation.is_due(step):
        return state, recent, True
    writer = None
    if is_first():
        job.run.record_start(step)
        writer = MetricsWriter(job.run, step)
    try:
        if from_first(validation.is_due(step)):  # the process that took this step did not get so far
            recent |= validation.run(state, writer)
        if step < job.total and not controls.stop.made:
            state = _steps(job, checkpoints, validation, controls, state, saved, recent, writer)
            step = int(state.step)
    finally:
        if writer is not None:
            writer.close()
    checkpoints.wait()
    finished = step == job.total and not validation.is_due(step)
    if not finished:
        announce(f"stopped after step {step} of {job.total}; the same command goes on from there")
    return state, recent, finished


def _steps(
    job: Job,
    checkpoints: Checkpoints,
    validation: Validation,
    controls: _Controls,
    state: TrainState,
    saved: dict[str, Any] | None,
    recent: dict[str, float],
    writer: MetricsWriter | None,
) -> TrainState:
    """Takes the steps that are left; `recent` is kept up to date."""
    config, observer = job.config, controls.observer
    step = int(state.step)
    train_step = job.compiled_step()
    clock = Clock(config.batch_size)
    # Past the first steps, which are slower, where there are others.
    profiler = Profiler(job.run.profile if controls.profile else None, min(step + 3, max(step, job.total - 3)))
    batches = job.open_batches(step)
    if saved is not None:
        batches.set_state(saved["data"])
    display = Display("training", job.total, step, config.log_every) if observer is None and is_first() else None
    ending = False
    try:
        if display is not None:
            display.start()
        batch = next(batches)
        placed = job.place(batch)
        while not ending:
            profiler.before(step)
            state, metrics = train_step(state, placed)
            # While the devices work on this step, the next batch is made ready and sent there.
            ids = batch["ids"]
            step += 1
            if step < job.total:
                with clock.waiting():
                    batch = next(batches)
                placed = job.place(batch)
            values = _values(metrics)
            _require_finite(job, checkpoints, step, values, ids)
            if writer is not None:
                writer.metrics(step, {"epoch": step / job.steps_per_epoch, **values})
            recent |= values
            clock.tick()
            if step % config.log_every == 0 and writer is not None:
                writer.performance(step, clock.report())

            ending = step == job.total or controls.stop.agreed(step) or _is_late(controls.deadline)
            validating = validation.is_due(step)
            if ending or validating or falls_into(step, config.checkpoints.every or job.steps_per_epoch):
                data = batches.get_state() | {"step": step}  # the next batch is out of it already
                checkpoints.save(state, {"data": data})
            # After saving: it takes long, and a run that is stopped meanwhile does it when it goes on.
            if validating and (step == job.total or not ending):
                recent |= validation.run(state, writer)
                clock.restart()
                ending = ending or validation.is_due(step)  # still: it was cut short
            if observer is not None:
                observer(step, job.total, dict(recent))
            if display is not None:
                display.update(step, _status(recent))
    finally:
        profiler.stop()
        if display is not None:
            display.stop()
        batches.close()
    return state


def _is_late(deadline: float) -> bool:
    """Whether the time is up, by the clock of the first process: the others' tell another time."""
    return deadline < math.inf and bool(from_first(time.monotonic() >= deadline))


def _restore(job: Job, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any] | None]:
    restored = checkpoints.restore(job.template)
    if restored is None:
        return job.initial_state(), None
    state, saved = restored
    announce(f"going on after step {int(state.step)} of {job.total}")
    return state, saved


def _values(metrics: StepMetrics) -> dict[str, float]:
    return {name: float(value) for name, value in dataclasses.asdict(jax.device_get(metrics)).items()}


def _require_finite(
    job: Job, checkpoints: Checkpoints, step: int, values: dict[str, float], ids: np.ndarray[Any, Any]
) -> None:
    """Stops a run that has diverged before its state is saved."""
    bad = [name for name in ("loss", "gradient_norm") if not math.isfinite(values[name])]
    if not bad:
        return
    checkpoints.wait()
    last = checkpoints.latest
    kept = "there is no checkpoint yet" if last is None else f"the checkpoint of step {last} in {job.run.path} is kept"
    raise TrainingError(
        f"the {bad[0].replace('_', ' ')} is {values[bad[0]]} at step {step}, in the batch of the videos with the ids "
        f"{', '.join(map(str, ids.tolist()))}; {kept}; a lower learning rate or optimizer.clip_norm may help."
    )


def _status(values: dict[str, float]) -> str:
    return f"loss {values['loss']:.4f}  accuracy {values['accuracy']:.2f}  rate {values['learning_rate']:.2g}"


def _export(job: Job, state: TrainState) -> None:
    params = whole(state.trained, job.mesh)
    if is_first() and not job.run.export.exists():
        with announce_progress(f"writing {job.run.export}"):
            model, processor = job.start.model, job.start.processor
            if unknown_to_transformers(model.config) is None:
                model.save_pretrained(job.run.export, params, processor=processor)
            else:
                model.save_converted(job.run.export, params, processor=processor)
