"""The demo's pictures: one video with all that the model says of it, several videos, and the learning curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..inference.predictions import Prediction
from ..interpret.attention_maps import attention_maps
from ..interpret.figures import shown_frames
from ..interpret.overlay import COLOURS, Scale, enlarge, overlay
from ..interpret.rollout import attention_rollout
from ..interpret.video_encoder import VideoEncoder
from ..schemes import has_temporal_attention

Clip = UInt8[np.ndarray, "t h w 3"]

_BLUE, _GRAY, _RED = "#2a6fbb", "#b9bec5", "#c44536"


def example_figure(encoder: VideoEncoder, clip: Clip, label: str, predictions: Sequence[Prediction]) -> Figure:
    """Draws one video: its frames, the attention rollout of CLS, the scores and the temporal attention of a patch.

    Args:
        encoder: the model.
        clip: its frames, before the preprocessing.
        label: the video's class.
        predictions: what the model says of it, best first.
    """
    pixel_values = encoder.processor(clip)
    shares, own = attention_rollout(encoder.model, encoder.params, pixel_values)
    maps = shares[0] / ((1 - own[0]) / shares[0].size)
    scale = Scale.of(maps, "share / even share")
    divided = has_temporal_attention(encoder.model.config)
    shown = shown_frames(len(clip))

    figure = Figure(figsize=(12, 6.2), layout="constrained")
    verdict = "right" if predictions[0].label == label else "wrong"
    figure.suptitle(
        f"a test video of the class “{label}”; the model says “{predictions[0].label}” "
        f"({predictions[0].score:.1%}), which is {verdict}",
        fontsize=13,
    )
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    axes: Any = parts[0].subplots(2, len(shown), squeeze=False)
    laid_over = overlay(enlarge(clip[shown], 128), maps[shown], scale)
    for column, index in enumerate(shown):
        axes[0, column].imshow(clip[index])
        axes[1, column].imshow(laid_over[column])
        axes[0, column].set_title(f"frame {index + 1}", fontsize=10)
        for row in (0, 1):
            axes[row, column].set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("the video", fontsize=10)
    axes[1, 0].set_ylabel("where CLS comes from\n(attention rollout)", fontsize=10)
    _colour_bar(parts[0], axes[1, :], scale)

    lower: Any = parts[1].subplots(1, 2 if divided else 1, squeeze=False, width_ratios=[1.1, 1][: 1 + divided])[0]
    _draw_scores(lower[0], label, predictions)
    if divided:
        brightest = np.unravel_index(int(maps.sum(axis=0).argmax()), maps.shape[1:])
        patch = int(brightest[0]), int(brightest[1])
        time = attention_maps(encoder.model, encoder.params, pixel_values, patch=patch).time
        assert time is not None
        _draw_time(parts[1], lower[1], time[-1, 0].mean(axis=0))
        height, width = (side / count for side, count in zip(clip.shape[1:3], maps.shape[1:], strict=True))
        for one in axes[0]:
            place = (patch[1] * width - 0.5, patch[0] * height - 0.5)
            one.add_patch(Rectangle(place, width, height, fill=False, edgecolor="white", linewidth=1.5))
    return figure


def _draw_scores(axes: Any, label: str, predictions: Sequence[Prediction]) -> None:
    names = [prediction.label for prediction in predictions]
    scores = [prediction.score for prediction in predictions]
    places = np.arange(len(names))
    axes.barh(places, scores, color=[_BLUE if name == label else _GRAY for name in names])
    for place, score in zip(places, scores, strict=True):
        axes.text(score + 0.01, place, f"{score:.1%}", va="center", fontsize=9)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.12), xlabel="probability", title="the classes (blue: the video's own)")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.spines[["top", "right"]].set_visible(False)


def _draw_time(figure: Any, axes: Any, attention: Float[np.ndarray, "t t"]) -> None:
    count = len(attention)
    scale = Scale.of(attention, "attention probability")
    edges = (0.5, count + 0.5, count + 0.5, 0.5)
    axes.imshow(attention, COLOURS, vmin=scale.lowest, vmax=scale.highest, extent=edges, aspect="auto")
    ticks = shown_frames(count) + 1
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.set(
        xlabel="attended frame",
        ylabel="attending frame",
        title="temporal attention of the framed patch\n(last layer, mean of the heads)",
    )
    _colour_bar(figure, [axes], scale)


def videos_figure(clips: Sequence[Clip], labels: Sequence[str], predictions: Sequence[str]) -> Figure:
    """Draws several videos, a row each, with their classes and predictions; wrong ones are red."""
    shown = shown_frames(len(clips[0]))
    figure = Figure(figsize=(12, 1.2 * len(clips)))
    figure.subplots_adjust(left=0.11, right=0.83, bottom=0.01, top=0.99, hspace=0.06)
    axes: Any = figure.subplots(len(clips), 1, squeeze=False)[:, 0]
    for one, clip, label, prediction in zip(axes, clips, labels, predictions, strict=True):
        gap = np.full((clip.shape[1], max(1, clip.shape[2] // 16), 3), 255, np.uint8)
        strip = [part for index in shown for part in (clip[index], gap)][:-1]
        one.imshow(np.concatenate(strip, axis=1))
        one.set(xticks=[], yticks=[])
        one.spines[:].set_visible(False)
        one.text(0.0, 0.5, f"{label}  ", transform=one.transAxes, ha="right", va="center", fontsize=11)
        right = label == prediction
        text = f"  “{prediction}”" + ("" if right else "  (wrong)")
        one.text(1.0, 0.5, text, transform=one.transAxes, va="center", color="black" if right else _RED, fontsize=11)
    return figure


def learning_curves(steps: Sequence[int], losses: Sequence[float], accuracies: Sequence[float], classes: int) -> Figure:
    """Draws loss and accuracy of the training batches against the steps.

    Args:
        steps: their numbers.
        losses: of the steps.
        accuracies: of the steps, in [0, 1].
        classes: how many there are, for the line of chance.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values in ((left, losses), (right, accuracies)):
        axes.plot(steps, values, color=_GRAY, linewidth=0.8, label="one batch")
        axes.plot(steps, _smooth(values), color=_BLUE, linewidth=2, label="mean of the batches around it")
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    left.axhline(np.log(classes), color=_RED, linestyle=":", label="chance")
    left.axhline(np.log(2), color=_RED, linestyle="--", label="only the pair is known")
    right.axhline(1 / classes, color=_RED, linestyle=":", label="chance")
    right.axhline(0.5, color=_RED, linestyle="--", label="only the pair is known")
    left.set(ylabel="loss", ylim=(0, None))
    right.set(ylabel="accuracy", ylim=(0, 1.03))
    right.legend(loc="lower right", fontsize=9)
    return figure


def _smooth(values: Sequence[float]) -> Float[np.ndarray, " n"]:
    """The moving average of some values."""
    array = np.asarray(values, np.float64)
    width = max(1, min(41, len(array) // 10)) | 1
    kernel = np.ones(width)
    return np.convolve(array, kernel, "same") / np.convolve(np.ones(len(array)), kernel, "same")


def _colour_bar(figure: Any, axes: Any, scale: Scale) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mappable = ScalarMappable(Normalize(scale.lowest, scale.highest), COLOURS)
    figure.colorbar(mappable, ax=axes, label=scale.label, pad=0.01)
