"""The model that a run trains: made from its recipe, or loaded from its directory where it was started before."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ..checkpoints.mapping import Params, mapping_table, set_leaf
from ..checkpoints.open import open_checkpoint, processor_for
from ..config import TimesformerConfig
from ..data.config import ClipShape
from ..errors import ConfigError
from ..model.modeling import TimesformerForVideoClassification
from ..schemes import attention_steps
from ..support.dtypes import require_x64
from ..support.files import write_atomically
from ..support.progress import say
from ..video.processing import VideoProcessor
from .recipe import ModelOptions
from .run_directory import RunDirectory

TRAINED_FOR = {"problem_type": "single_label_classification"}
"""What the loss, cross-entropy, is for, whatever the checkpoint was trained for that training starts from."""


@dataclasses.dataclass(frozen=True)
class Start:
    """What training starts from.

    Attributes:
        model: the module.
        processor: the preprocessing of its frames.
        params: numpy arrays; None where a checkpoint of the run has them.
    """

    model: TimesformerForVideoClassification
    processor: VideoProcessor
    params: Params | None

    @property
    def clip(self) -> ClipShape:
        """Frames, size and rate of the clips that the model takes.

        Raises:
            ConfigError: nothing says how clips are sampled.
        """
        config = self.model.config
        if config.sampling_rate is None:
            raise ConfigError(
                "nothing says how many frames lie between two of a clip; give --model.sampling-rate (32, or segments)."
            )
        return ClipShape(config.num_frames, *config.image_shape, config.sampling_rate)


def param_dtype(options: ModelOptions) -> DTypeLike:
    """The type of parameters, optimizer state and loss."""
    return jnp.float64 if options.dtype == "float64" else jnp.float32


def start_from_recipe(options: ModelOptions, classes: Sequence[str], seed: int) -> Start:
    """The model of a recipe before its first step.

    Raises:
        CheckpointError: the checkpoint can't be loaded.
        ConfigError: the recipe asks for an impossible model.
    """
    require_x64(options.dtype)
    overrides = options.overrides() | {"id2label": dict(enumerate(classes)), **TRAINED_FOR}
    dtype = np.dtype(jnp.dtype(param_dtype(options)))
    if options.checkpoint is not None:
        arguments: dict[str, Any] = {"head": True, "dtype": dtype, "base": options.base, **overrides}
        opened = open_checkpoint(options.checkpoint, processor=options.processor, **arguments)
        processor = processor_for(opened)
        size = processor.output_size or opened.config.image_shape
        if size != opened.config.image_shape:  # the frames are those of the preprocessing: so shall the model be
            arguments["image_size"] = size
            opened = open_checkpoint(opened.source, **arguments)
        if processor.output_size is None:
            say(f"frames are cropped to {size[0]} x {size[1]} pixels, also by the trained model's preprocessing.")
        checkpoint = opened.read()
        return Start(make_model(checkpoint.config, options), processor.with_output_size(*size), checkpoint.params)
    config = TimesformerConfig.preset(options.architecture, **overrides)
    model = make_model(config, options)
    height, width = config.image_shape
    processor = VideoProcessor(size=min(height, width), crop_size=(height, width))
    shape = (1, config.num_frames, height, width, config.num_channels)
    init = jax.jit(model.init)
    params: Any = init(jax.random.key(seed), jnp.zeros(shape, jnp.float32))["params"]
    params = _randomize_time(jax.device_get(params), config, options.time_initializer_range, seed)
    return Start(model, processor, params)


def _randomize_time(params: Params, config: TimesformerConfig, deviation: float, seed: int) -> Params:
    """Draws random values for zeros that keep a model blind to the order of frames, or an attention without effect."""
    dense = [step.dense for step in attention_steps(config) if step.dense is not None]

    def draw(path: Any, leaf: np.ndarray) -> np.ndarray:
        names = [str(key.key) for key in path]
        if deviation and (names[-1] == "time_embeddings" or (names[-1] == "kernel" and names[-2] in dense)):
            further = dense.index(names[-2]) if names[-2] in dense else 0
            rng = np.random.default_rng([seed, len(names), *[further] * (further > 0)])
            return rng.normal(0, deviation, leaf.shape).astype(leaf.dtype)
        return leaf

    return jax.tree_util.tree_map_with_path(draw, params)


def classes_of_run(run: RunDirectory) -> tuple[str, ...]:
    """The names of the classes in a run that was started before; none for a new run."""
    file = run.model / "config.json"
    if not file.exists():
        return ()
    config = TimesformerConfig.from_json_file(file)
    return tuple(config.id2label[number] for number in range(config.num_labels))


def start_from_directory(run: RunDirectory, options: ModelOptions) -> Start | None:
    """The model of a run that was started before, without parameters; None for a new run."""
    file = run.model / "config.json"
    if not file.exists():
        return None
    require_x64(options.dtype)
    model = make_model(TimesformerConfig.from_json_file(file).replace(**TRAINED_FOR), options)
    processor = VideoProcessor.from_pretrained(run.model).with_output_size(*model.config.image_shape)
    return Start(model, processor, None)


def save_start(run: RunDirectory, start: Start) -> None:
    """Writes configuration and preprocessing of the model to the directory of the run."""
    with write_atomically(run.model) as temporary:
        temporary.mkdir()
        start.model.config.save_json_file(temporary / "config.json")
        start.processor.save_pretrained(temporary)


def make_model(config: TimesformerConfig, options: ModelOptions) -> TimesformerForVideoClassification:
    """The module of a model, with the types and rematerialisation of the options."""
    dtype = jnp.dtype(options.dtype)
    return TimesformerForVideoClassification(config, dtype=dtype, param_dtype=param_dtype(options), remat=options.remat)


def abstract_params(config: TimesformerConfig, dtype: DTypeLike) -> Params:
    """Shapes and types of the parameters."""
    params: Params = {}
    for entry in mapping_table(config, head=True):
        set_leaf(params, entry.path, jax.ShapeDtypeStruct(entry.shape, jnp.dtype(dtype)))
    return params
