"""Explains what a model says of a video: its likeliest classes, and a picture of what it attends to in the frames."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Self

from ..inference.classifier import VideoClassifier
from ..inference.predictions import Prediction, best_predictions, no_answer
from ..interpret.choices import Choices, Method
from ..interpret.figures import save_figure
from ..interpret.methods import interpret_clip, missing_methods
from ..interpret.video_encoder import VideoEncoder
from ..model.modeling import TimesformerForVideoClassification

CLASSES = 5
"""How many classes are shown."""

METHODS_OF_VIDEOS: tuple[Method, ...] = ("attention", "rollout", "relevance", "temporal")
"""The methods whose picture depends on the video."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What the page shows of a video.

    Attributes:
        predictions: the likeliest classes, best first.
        picture: the frames, and what the model attends to in them.
        animation: the same in motion; None for a method without maps to lay over frames.
    """

    predictions: list[Prediction]
    picture: Path
    animation: Path | None


@dataclasses.dataclass(frozen=True)
class Explainer:
    """A model that explains what it says of a video.

    Attributes:
        encoder: makes the pictures.
        classify: gives the classes; of the same model.
    """

    encoder: VideoEncoder
    classify: VideoClassifier

    @classmethod
    def load(cls, model: str | os.PathLike[str], **options: Any) -> Self:
        """Loads a checkpoint with a classifier.

        Args:
            model: a directory, file or Hub id, as for `VideoEncoder.from_pretrained`.
            **options: of `VideoEncoder.from_pretrained`.

        Raises:
            CheckpointError: the checkpoint can't be loaded, or has no classifier.
        """
        encoder = VideoEncoder.from_pretrained(model, head=True, **options)
        assert isinstance(encoder.model, TimesformerForVideoClassification)
        return cls(encoder, VideoClassifier.from_model(encoder.model, encoder.params, encoder.processor))

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that the model has."""
        missing = missing_methods(self.encoder)
        return tuple(method for method in METHODS_OF_VIDEOS if method not in missing)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of patches; None where they depend on the video."""
        size = self.encoder.processor.output_size
        if size is None:
            return None
        height, width = size
        patch_height, patch_width = self.encoder.model.config.patch_shape
        return height // patch_height, width // patch_width

    @property
    def middle(self) -> tuple[int, int] | None:
        """The patch in the middle; None where that depends on the video."""
        return None if self.grid is None else (self.grid[0] // 2, self.grid[1] // 2)

    def explain(self, video: str, method: Method, choices: Choices, directory: Path) -> Explanation:
        """Classifies a video, and draws what the model attends to in it.

        Args:
            video: the file.
            method: one of `methods`.
            choices: layer, head, patch and class that the method is applied to.
            directory: where the pictures go.

        Raises:
            VideoError: the video can't be read, or the model's scores for it are not finite.
        """
        # The same frames for both, for nothing is computed in float64 here.
        frames = self.classify.prepare(self.classify.read(video))
        logits = self.classify.forward(frames[None])[0]
        error = no_answer(video, logits)
        if error is not None:
            raise error
        (found,) = interpret_clip(self.encoder, frames, [method], choices)
        picture, animation = directory / f"{method}.png", None
        save_figure(found.figure, picture)
        if found.animate is not None:
            animation = directory / f"{method}.gif"
            found.animate(animation)
        return Explanation(best_predictions(logits, self.classify.model.config, CLASSES), picture, animation)
