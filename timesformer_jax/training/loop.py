"""The training loop: `train(config, directory)` starts a run, or goes on with it, whatever happened to it before."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from ..checkpoints.mapping import Params
from ..data.agreement import PLACES
from ..data.pipeline import refuse_in_worker
from ..model.modeling import TimesformerForVideoClassification
from ..schemes import unknown_to_transformers
from ..sharding import whole
from ..support.agreement import require_agreement, settings, versions
from ..support.distributed import announce, announce_progress, from_first, is_first, text_from_first, wait_for_all
from ..support.progress import Observer
from ..video.processing import VideoProcessor
from .checkpointing import Checkpoints
from .job import Job, make_job
from .metrics import MetricsWriter
from .performance import Profiler
from .recipe import TrainConfig
from .run_directory import RunDirectory
from .soundness import why_unsound
from .state import TrainState
from .step_log import StepLog
from .stopping import StopRequest
from .validation import Validation, falls_into


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The result of a run so far.

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
        observer: is told of every step, instead of a bar or lines on standard error.
        max_seconds: the loop saves and returns when so much time has passed since the call.
        profile: whether to write a trace of a few steps for xprof.
        stop: asks the loop to save and return; for callers that listen to signals before they call this.

    Raises:
        RunError: the directory belongs to another run.
        ConfigError: the processes of the job were not started alike.
        DataError: the videos can't be used.
        CheckpointError: the checkpoint to start from can't be loaded.
        TrainingError: the loss, a gradient, a weight or the model's scores are no longer finite.
        OSError: a checkpoint can't be written.
    """
    refuse_in_worker()
    stop = stop or StopRequest()
    deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds

    def is_over() -> bool:
        return stop.agreed() or _is_late(deadline)

    with contextlib.ExitStack() as held:
        # --- Processes: all do the same.
        require_agreement("the recipe", lambda: _facts(config, max_seconds))

        # --- Directory: it is of this recipe, and no other process works in it.
        held.enter_context(stop.listening())
        run = RunDirectory(Path(directory).expanduser().absolute())
        if is_first():
            held.enter_context(run.locked())
            held.enter_context(run.claimed(config))
        run.require_shared(text_from_first(run.read_token() if is_first() else ""))

        # --- Mesh, input, model and step.
        job = make_job(config, run)

        # --- State: that of the last sound checkpoint, or the first of all.
        with contextlib.closing(Checkpoints(run.checkpoints, config.checkpoints)) as checkpoints:
            state, data = _restore(job, checkpoints)
            step = int(state.step)
            validation = Validation(job, stop, checkpoints.accuracies)
            recent = validation.resume(step)

            # --- Loop: what is left to do.
            if step < job.total or validation.is_due(step):
                if is_first():
                    run.record_start(step)
                with contextlib.closing(MetricsWriter(run, step)) if is_first() else contextlib.nullcontext() as writer:
                    if from_first(validation.is_due(step)):  # the process that took this step did not get so far
                        recent |= validation.run(state, writer)
                    if step < job.total and not stop.agreed():
                        log = StepLog(job, checkpoints, step, recent, writer, observer)
                        profiler = Profiler(run.profile if profile else None, step, job.total)
                        state = _take_steps(job, state, data, checkpoints, validation, log, profiler, is_over)
                        step = int(state.step)
                checkpoints.wait()

        # --- Export.
        finished = step == job.total and not validation.is_due(step)
        if finished:
            _export(job, state)
        else:
            announce(f"stopped after step {step} of {job.total}; the same command goes on from there")
        return TrainResult(
            finished=finished,
            step=step,
            metrics=recent,
            model=job.start.model,
            params=state.trained,
            processor=job.start.processor,
            export=run.export if finished else None,
        )


def _facts(config: TrainConfig, max_seconds: float | None) -> dict[str, str]:
    """What all processes of the job must have been started with."""
    recipe = settings(dataclasses.asdict(config), without=(*PLACES, "model.checkpoint"))
    timed = "none" if max_seconds is None else "given"
    return {"the command": "train", **recipe, "a limit of time": timed, **versions()}


def _restore(job: Job, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any] | None]:
    """The state to go on from, and the place in the data that was saved with it; None for a new run."""
    restored = checkpoints.restore(job.template, lambda state: why_unsound(job, state))
    if restored is None:
        return job.initial_state(), None
    state, saved = restored
    announce(f"going on after step {int(state.step)} of {job.total}")
    return state, saved["data"]


def _take_steps(
    job: Job,
    state: TrainState,
    data: dict[str, Any] | None,
    checkpoints: Checkpoints,
    validation: Validation,
    log: StepLog,
    profiler: Profiler,
    is_over: Callable[[], bool],
) -> TrainState:
    """Takes the steps that are left, and returns the last state, which is being saved.

    The host runs ahead of the devices by one step: it sends them step k + 1, and then waits for step k to read its
    metrics. Each step takes over the memory of the state before it, so a state can only be saved where the host stops
    running ahead, and it is saved once the metrics of its own step have been read and found finite, and the state is
    sound (see soundness.py). A step that was not finite ends the run: its successor, which is on its way, is neither
    read nor saved.
    """
    step, train_step = int(state.step), job.compiled_step()
    batches = job.batches
    if data is not None:
        batches.set_state(data)
    with contextlib.closing(batches), contextlib.closing(profiler), log.shown():
        batch = next(batches)
        placed = job.place(batch)
        wait_for_all("the first step")
        unread = None
        ending = False
        while not ending:
            # --- Step.
            profiler.before(step, state)
            state, metrics = train_step(state, placed)
            step += 1
            if unread is not None:
                log.read(*unread)
                log.tell(step - 1)
                checkpoints.check()
            unread = step, metrics, batch["ids"]

            # --- Input: while the devices work on this step, the next batch is made ready and sent there.
            if step < job.total:
                with log.clock.waiting():
                    batch = next(batches)
                placed = job.place(batch)

            # --- Checkpoint.
            ending = step == job.total or is_over()
            validating = validation.is_due(step)
            every = job.config.checkpoints.every or job.steps_per_epoch
            if not (ending or validating or falls_into(step, every)):
                continue
            log.read(*unread)
            log.require_sound(state, placed["frames"], unread[2])
            unread = None
            # The next batch is out of the stream already, but has not been used.
            checkpoints.save(state, {"data": batches.get_state() | {"step": step}, "sound": True})

            # --- Validation: after saving, for it takes long; where it is cut short, it is made up for later.
            if validating and (step == job.total or not ending):
                log.recent |= validation.run(state, log.writer)
                log.clock.restart()
                ending = ending or validation.is_due(step)
            log.tell(step)
    return state


def _is_late(deadline: float) -> bool:
    """Whether the time is up, by the clock of the first process: the others' tell another time."""
    return deadline < math.inf and bool(from_first(time.monotonic() >= deadline))


def _export(job: Job, state: TrainState) -> None:
    """Writes the trained model, where it has not been written before."""
    wait_for_all("the export")
    params = whole(state.trained, job.mesh)
    if is_first() and not job.run.export.exists():
        with announce_progress(f"writing {job.run.export}"):
            model, processor = job.start.model, job.start.processor
            if unknown_to_transformers(model.config) is None:
                model.save_pretrained(job.run.export, params, processor=processor)
            else:
                model.save_converted(job.run.export, params, processor=processor)
