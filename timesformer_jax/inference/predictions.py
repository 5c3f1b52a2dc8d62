"""Labels and scores from logits."""

import dataclasses

import numpy as np
from jaxtyping import Float

from ..config import TimesformerConfig
from ..errors import VideoError
from ..video.reading import Video


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class of one video.

    Attributes:
        label: the class's name.
        score: probability of the class among all (of the class by itself where several may hold; the bare value
            for regression).
        index: the class's number.
        logit: what the model returned; a mean where several clips were classified.
    """

    label: str
    score: float
    index: int
    logit: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """The classes of one video among several, or why there are none.

    Attributes:
        video: as it was given.
        predictions: best first; empty where the video could not be read, or the model's scores are not finite.
        error: why there are none; None where there are.
    """

    video: Video
    predictions: list[Prediction]
    error: VideoError | None = None


@dataclasses.dataclass(frozen=True)
class WindowAnswer:
    """The classes of a window of a video.

    Attributes:
        start: seconds from the beginning of the video.
        end: seconds from the beginning of the video.
        predictions: best first.
        logits: of the window.
    """

    start: float
    end: float
    predictions: list[Prediction]
    logits: Float[np.ndarray, " labels"] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class LongAnswer:
    """The classes of a whole video and of its windows.

    Attributes:
        predictions: of the mean of the windows' logits (as the paper averages clips), best first.
        windows: in order.
    """

    predictions: list[Prediction]
    windows: list[WindowAnswer]


def no_answer(video: Video, logits: Float[np.ndarray, "*clips labels"]) -> VideoError | None:
    """An error where the model's scores for a video are no answer: NaN would sort among numbers anyhow."""
    if np.isfinite(logits).all():
        return None
    shown = "the frames given" if isinstance(video, np.ndarray) else str(video)
    return VideoError(
        f"the model's scores for {shown} are not finite (NaN): its weights are broken, or too large for the type of "
        "the computation (dtype)."
    )


def best_predictions(logits: Float[np.ndarray, " labels"], config: TimesformerConfig, top_k: int) -> list[Prediction]:
    """Gives the likeliest classes, best first."""
    scores = scores_of(logits, config)
    best: list[int] = np.argsort(-scores, kind="stable")[:top_k].tolist()
    return [Prediction(config.id2label.get(i, str(i)), float(scores[i]), i, float(logits[i])) for i in best]


def scores_of(logits: Float[np.ndarray, " labels"], config: TimesformerConfig) -> Float[np.ndarray, " labels"]:
    """Gives the probabilities that the config's `problem_type` asks for."""
    values = logits.astype(np.float64)
    if (config.problem_type or ("regression" if config.num_labels == 1 else None)) == "regression":
        return values
    if config.problem_type == "multi_label_classification":
        return 0.5 * (1 + np.tanh(0.5 * values))  # the logistic function, which can't overflow this way
    shares = np.exp(values - values.max())
    return shares / shares.sum()
