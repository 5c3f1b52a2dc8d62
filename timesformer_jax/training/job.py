"""A run made ready: its recipe, model, step and place on the devices, worked out once before the loop begins."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from ..checkpoints.fingerprints import model_facts
from ..checkpoints.mapping import Params
from ..data.agreement import require_same_videos
from ..data.batches import EvaluationBatches, TrainingBatches
from ..data.config import Views
from ..data.sources import open_data
from ..data.videos import Videos
from ..errors import DataError
from ..evaluation.metrics import Evaluation
from ..evaluation.prediction import Predict, make_predict, predict_batch
from ..sharding import BatchPlace, batch_share, clip_sharding, global_batch, make_mesh, place, shardings_of, use_mesh
from ..support.agreement import require_agreement
from ..support.compilation import compiler_options, release_memory
from ..support.distributed import announce, announce_progress, is_first, wait_for_all
from .initial_model import Start, abstract_params, classes_of_run, save_start, start_from_directory, start_from_recipe
from .optimizer import make_optimizer
from .recipe import TrainConfig, total_steps
from .run_directory import RunDirectory
from .schedule import learning_rate_schedule, remarks_on
from .state import StepMetrics, TrainState
from .step import Batch, make_train_step
from .stopping import StopRequest

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


@dataclasses.dataclass(frozen=True)
class Job:
    """What the loop works with.

    Attributes:
        config: the recipe.
        run: the directory.
        classes: names of the classes.
        start: model and preprocessing.
        mesh: the devices.
        batches: this process's part of the training batches.
        validation: the validation videos, if there are any.
        optimizer: of the recipe.
        total: steps in all.
        step: the pure function that takes one step.
        predict: see `make_predict`.
    """

    config: TrainConfig
    run: RunDirectory
    classes: tuple[str, ...]
    start: Start
    mesh: Mesh
    batches: TrainingBatches
    validation: Videos | None
    optimizer: optax.GradientTransformation
    total: int
    step: TrainStep
    predict: Predict

    @property
    def steps_per_epoch(self) -> float:
        """Steps of the optimizer in one pass through the training videos, which need not be whole."""
        return self.batches.steps_per_epoch

    @property
    def template(self) -> TrainState:
        """Shapes, types and places of the state."""
        dtype = self.start.model.param_dtype
        abstract = jax.eval_shape(self._create, abstract_params(self.start.model.config, dtype))
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract,
            shardings_of(abstract, self.mesh),
        )

    def compiled_step(self) -> TrainStep:
        """The step, compiled for the devices; takes the state's memory, and global batches.

        Compiled from shapes, not from the first arrays that come along: those of a new run and those that a checkpoint
        is restored to would give two programs, whose results differ in the last bits.
        """
        clip, size, template = self.start.clip, self.config.batch_size, self.template
        shapes = {
            "frames": ((size, clip.num_frames, clip.height, clip.width, 3), np.uint8),
            "labels": ((size,), np.int32),
        }
        batch = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=clip_sharding(self.mesh, shape))
            for name, (shape, dtype) in shapes.items()
        }
        places = (jax.tree.map(lambda leaf: leaf.sharding, template), None)
        with use_mesh(self.mesh), announce_progress("compiling the training step"):
            step = jax.jit(self.step, donate_argnums=0, out_shardings=places, compiler_options=compiler_options())
            compiled = step.lower(template, batch).compile()
        release_memory()
        return compiled

    def initial_state(self) -> TrainState:
        """The state before the first step."""
        params = self.start.params
        if params is None:  # an earlier process got no further than to write down the model
            start = start_from_recipe(self.config.model, self.classes, self.config.seed)
            require_same_start(self.config, start)
            params = start.params
        placed = place(params, self.mesh)
        create = jax.jit(self._create, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, self.template))
        return create(placed)

    def _create(self, params: Params) -> TrainState:
        return TrainState.create(params, self.optimizer, ema=self.config.optimizer.ema_decay is not None)

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch on the devices."""
        wanted = {name: batch[name] for name in ("frames", "labels")}
        return global_batch(wanted, self.mesh, self.config.batch_size)

    def validate(self, params: Params, stop: StopRequest) -> Evaluation | None:
        """Evaluates the middle view of each validation video.

        Returns:
            None where there are no validation videos, or a request to stop came before the last.
        """
        if self.validation is None:
            return None
        size = self.config.batch_size // self.config.accumulation
        batches = EvaluationBatches(
            self.validation,
            self.config.data,
            clip=self.start.clip,
            batch_size=size,
            views=Views(clips=1, crops=1, position="middle"),
            bad_list=self.run.bad_validation_videos,
            share=batch_share(self.mesh, size),
        )
        where, results = BatchPlace(self.mesh, size), []
        try:
            with use_mesh(self.mesh):
                for number, batch in enumerate(batches):
                    if not number:
                        wait_for_all("the first batch of the validation")
                    results += predict_batch(self.predict, params, batch, where)
                    if stop.agreed():
                        return None
        finally:
            batches.close()
        return Evaluation.of(self.classes, results)


def make_job(config: TrainConfig, run: RunDirectory) -> Job:
    """Works out a run.

    Raises:
        DataError: the videos can't be used.
        CheckpointError: the checkpoint to start from can't be loaded.
        ConfigError: the recipe asks for what can't be.
        RunError: the run began with other videos.
    """
    data = open_data(config.data, earlier=classes_of_run(run))
    if data.train is None:
        raise DataError("there are no training videos; give --data.train.")
    require_same_videos(data, config.data)
    classes = data.train.classes
    if is_first():
        run.claim_data(data.fingerprints)
    start = start_from_directory(run, config.model)
    require_agreement(
        "the run", lambda: {"what the run directory holds": "no model yet" if start is None else "a model"}
    )
    if start is None:
        with announce_progress("making the model"):
            start = start_from_recipe(config.model, classes, config.seed)
        require_same_start(config, start)
        if is_first():
            save_start(run, start)
    mesh = make_mesh(config.mesh)
    batches = TrainingBatches(
        data.train,
        config.data,
        clip=start.clip,
        batch_size=config.batch_size,
        seed=config.seed,
        bad_list=run.bad_videos,
        share=batch_share(mesh, config.batch_size),
    )
    total = total_steps(config, batches.steps_per_epoch)
    learning_rate = learning_rate_schedule(
        config.schedule, config.optimizer.learning_rate, steps_per_epoch=batches.steps_per_epoch, total_steps=total
    )
    for remark in remarks_on(config.schedule, steps_per_epoch=batches.steps_per_epoch, total_steps=total):
        announce(remark)
    optimizer = make_optimizer(config.optimizer, learning_rate, num_layers=start.model.config.num_hidden_layers)
    step = make_train_step(start.model, config, optimizer, learning_rate, start.processor)
    predict = make_predict(start.model, start.processor)
    return Job(config, run, classes, start, mesh, batches, data.validation, optimizer, total, step, predict)


def require_same_start(config: TrainConfig, start: Start) -> None:
    """Checks that all processes of the job start from the same model.

    Raises:
        ConfigError: they don't.
    """
    source = config.model.checkpoint or f"the seed {config.seed}"
    require_agreement("the model", lambda: model_facts(start.model.config, start.processor, start.params, source))
