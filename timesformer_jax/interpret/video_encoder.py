"""A checkpoint of any kind with its preprocessing, for looking inside: features, attention, embeddings."""

import dataclasses
from os import PathLike
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float32, UInt8

from ..checkpoints.hub import HubOptions
from ..checkpoints.mapping import Params
from ..checkpoints.open import load_checkpoint, processor_for
from ..checkpoints.source import Source
from ..config import TimesformerConfig
from ..errors import ConfigError
from ..model.modeling import TimesformerForVideoClassification, TimesformerModel
from ..parameters import BACKBONE
from ..video.processing import VideoProcessor
from ..video.reading import Video, clip_rule, read_by_rule


@dataclasses.dataclass(frozen=True)
class VideoEncoder:
    """A model, with or without a classifier, its parameters and its preprocessing.

    Attributes:
        model: the Flax module.
        params: its parameters.
        processor: how frames become pixel values.
        name: of the checkpoint.
    """

    model: TimesformerModel | TimesformerForVideoClassification
    params: Params = dataclasses.field(repr=False)
    processor: VideoProcessor
    name: str

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str] | Source,
        *,
        head: bool | None = None,
        dtype: DTypeLike = jnp.float32,
        size: tuple[int, int] | None = None,
        hub: HubOptions | None = None,
        **overrides: Any,
    ) -> "VideoEncoder":
        """From a checkpoint, with the preprocessing that it was trained with.

        Args:
            source: as for `TimesformerForVideoClassification.from_pretrained`.
            head: whether the classifier is wanted; None takes it where there is one.
            dtype: of the computation.
            size: (height, width) of the frames in pixels, instead of the checkpoint's; may be a rectangle.
            hub: how to reach the Hub.
            **overrides: other arguments of `load_checkpoint`: config fields to change, `labels`, `channel_order`.

        Raises:
            CheckpointError: the checkpoint can't be loaded, or its channel order is not known and not given.
            ConfigError: its config or its preprocessing can't be used, or patches don't divide `size`.
        """
        checkpoint = load_checkpoint(source, head=head, hub=hub, **overrides)
        processor = processor_for(checkpoint)
        if size is not None:
            _require_whole_patches(size, checkpoint.config)
            processor = processor.with_output_size(*size)
        kind = TimesformerForVideoClassification if BACKBONE in checkpoint.params else TimesformerModel
        model, params = kind.from_checkpoint(checkpoint, dtype=dtype)
        return cls(model, params, processor, checkpoint.source.name)

    def read(self, video: Video) -> UInt8[np.ndarray, "t h w 3"]:
        """The clip of a video as the model sees it, resized and cut, in the model's order of channels.

        Raises:
            VideoError: the video can't be read.
        """
        rate = self.model.config.sampling_rate
        rate = None if isinstance(rate, str) else rate
        rule = clip_rule(self.model.config.num_frames, rate)
        return read_by_rule(video, rule, prepare=lambda frame: self.processor.resize_and_crop([frame])[0])

    def rgb(self, frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w 3"]:
        """What `read` gives, in the order of channels that people see."""
        return frames if self.processor.channel_order == "rgb" else frames[..., ::-1]

    def pixel_values(self, frames: UInt8[np.ndarray, "*b h w 3"]) -> Float32[np.ndarray, "*b h w 3"]:
        """What `read` gives, normalised."""
        return self.processor.rescale_and_normalize(frames)


def _require_whole_patches(size: tuple[int, int], config: TimesformerConfig) -> None:
    for side, pixels, patch in zip(("height", "width"), size, config.patch_shape, strict=True):
        if pixels < patch or pixels % patch:
            raise ConfigError(f"the {side} of {pixels} pixels is no multiple of the patches' {patch}; choose another.")
