"""Videos to labels: a model, its parameters and its preprocessing behind one call."""

import dataclasses
import functools
from collections.abc import Sequence
from os import PathLike
from typing import Any, Self, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from .checkpoints import Checkpoint, HubOptions, Source, load_checkpoint
from .checkpoints.mapping import Params
from .modeling import TimesformerForVideoClassification
from .pretrained import require_x64
from .processing import VideoProcessor
from .progress import say
from .video import Video, read_clip


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class of one video.

    Attributes:
        label: the class's name.
        score: probability of the class among all (of the class by itself where several may hold; the bare value
            for regression).
        index: the class's number.
        logit: what the model returned.
    """

    label: str
    score: float
    index: int
    logit: float


@dataclasses.dataclass(frozen=True)
class VideoClassifier:
    """Classifies videos: `classify("video.mp4")`.

    Attributes:
        model: the Flax module.
        params: its parameters.
        processor: how frames become pixel values.
    """

    model: TimesformerForVideoClassification
    params: Params = dataclasses.field(repr=False)
    processor: VideoProcessor = dataclasses.field(default_factory=VideoProcessor)

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str] | Source,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike | None = None,
        precision: jax.lax.PrecisionLike = None,
        processor: VideoProcessor | None = None,
        hub: HubOptions | None = None,
        **overrides: Any,
    ) -> Self:
        """A classifier from a checkpoint, with the preprocessing that it was trained with.

        Args:
            source: as for `TimesformerForVideoClassification.from_pretrained`, and so are the next three.
            dtype: of the computation.
            param_dtype: of the parameters.
            precision: of matrix products.
            processor: instead of the checkpoint's own preprocessing; a checkpoint without any gets that of the
                published TimeSformer models at the config's image size.
            hub: how to reach the Hub.
            **overrides: other arguments of `load_checkpoint`: config fields to change, `labels`, `channel_order`.

        Raises:
            CheckpointError: the checkpoint can't be loaded, or its channel order is not known and not given.
            ConfigError: its config or its preprocessing can't be used.
            ValueError: float64 is asked for while jax_enable_x64 is off.
        """
        require_x64(dtype, param_dtype)
        storage = None if param_dtype is None else np.dtype(jnp.dtype(param_dtype))
        checkpoint = load_checkpoint(source, head=True, dtype=storage, hub=hub, **overrides)
        processor = processor or processor_for(checkpoint)
        model, params = TimesformerForVideoClassification.from_checkpoint(checkpoint, dtype=dtype, precision=precision)
        return cls(model, params, processor)

    @property
    def sampling(self) -> str:
        """Which frames of a video are looked at, in words."""
        config = self.model.config
        match config.sampling_rate:
            case None:
                return f"{config.num_frames} frames spread evenly over the video (the training's sampling is not known)"
            case "segments":
                return f"{config.num_frames} frames, one from each equal part of the video"
            case rate:
                return f"the middle {config.num_frames} x {rate:g} frames at 30 frames per second"

    def read(self, video: Video) -> UInt8[np.ndarray, "t height width 3"]:
        """The clip of a video that the model looks at, as `sampling` says.

        Raises:
            VideoError: the video can't be read.
        """
        rate = self.model.config.sampling_rate
        return read_clip(video, self.model.config.num_frames, sampling_rate=None if isinstance(rate, str) else rate)

    def logits(self, videos: Video | Sequence[Video]) -> Float[np.ndarray, "b labels"]:
        """The model's output for videos, one row each.

        Raises:
            VideoError: a video can't be read.
        """
        listed = [videos] if isinstance(videos, str | PathLike | np.ndarray) else videos
        pixel_values = np.concatenate([self.processor(self.read(video)) for video in listed])
        return np.asarray(_logits(self.model, self.params, jnp.asarray(pixel_values)))

    @overload  # a str is a Sequence, too, and the first of the two that fits counts
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, videos: Video, *, top_k: int = 5
    ) -> list[Prediction]: ...
    @overload
    def __call__(self, videos: Sequence[Video], *, top_k: int = 5) -> list[list[Prediction]]: ...
    def __call__(self, videos: Video | Sequence[Video], *, top_k: int = 5) -> list[Prediction] | list[list[Prediction]]:
        """The likeliest classes of a video, best first; a list of them for each of several videos.

        Args:
            videos: a file, a directory of pictures or an array of frames; or several of these.
            top_k: how many classes; all of them where the model has fewer.

        Raises:
            VideoError: a video can't be read.
        """
        rows = [self._best(logits, top_k) for logits in self.logits(videos)]
        return rows[0] if isinstance(videos, str | PathLike | np.ndarray) else rows

    def _best(self, logits: Float[np.ndarray, " labels"], top_k: int) -> list[Prediction]:
        config = self.model.config
        scores = np.asarray(_scores(jnp.asarray(logits), config.problem_type, config.num_labels))
        best = np.argsort(-scores, kind="stable")[:top_k].tolist()
        return [Prediction(config.id2label.get(i, str(i)), float(scores[i]), i, float(logits[i])) for i in best]


def processor_for(checkpoint: Checkpoint) -> VideoProcessor:
    """A checkpoint's preprocessing; where it has none, that of the published models at its config's image size.

    Raises:
        CheckpointError: the channel order of an original checkpoint is not known and was not given.
        ConfigError: its preprocessor_config.json can't be used.
    """
    if checkpoint.preprocessing is None and checkpoint.source.processor_file is not None:
        processor = VideoProcessor.from_pretrained(checkpoint.source.directory)  # which says so if it is not RGB
        order = checkpoint.channel_order
        return processor if order is None else dataclasses.replace(processor, channel_order=order)
    height, width = checkpoint.config.image_shape
    processor = VideoProcessor(size=min(height, width), crop_size=(height, width))
    if checkpoint.preprocessing is not None:
        processor = VideoProcessor.from_dict(checkpoint.preprocessing.settings())
    elif checkpoint.channel_order is not None:
        processor = dataclasses.replace(processor, channel_order=checkpoint.channel_order)
    if processor.channel_order != "rgb":
        say(f"{checkpoint.source.name}: frames are given to the model in the channel order BGR.")
    return processor


@functools.partial(jax.jit, static_argnums=0)
def _logits(
    model: TimesformerForVideoClassification, params: Params, pixel_values: Float[Array, "b t height width c"]
) -> Float[Array, "b labels"]:
    outputs: Any = model.apply({"params": params}, pixel_values)
    return outputs.logits


def _scores(logits: Float[Array, " labels"], problem_type: str | None, num_labels: int) -> Float[Array, " labels"]:
    if problem_type == "regression" or num_labels == 1:
        return logits
    if problem_type == "multi_label_classification":
        return jax.nn.sigmoid(logits)
    return jax.nn.softmax(logits)
