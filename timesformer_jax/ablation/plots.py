"""The figures of an ablation: accuracy against cost, and the cost of the base model for longer and larger clips."""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

from matplotlib.figure import Figure

from ..config import AttentionType, TimesformerConfig
from ..model.summary import summarize
from .results import VariantResult

FRAMES = (8, 32, 64, 96)
SIZES = (224, 336, 448, 560)
"""The clips of the paper's figure 3."""

_MARKERS = "os^DvPX*<>"


@dataclasses.dataclass(frozen=True)
class CostPoint:
    """The multiply-adds of one clip.

    Attributes:
        attention_type: scheme.
        frames: of the clip.
        size: pixels, a side of the crop.
        multiply_adds: of the clip, forward.
    """

    attention_type: str
    frames: int
    size: int
    multiply_adds: int


def cost_curves(architecture: str = "base-k400") -> list[CostPoint]:
    """The costs of the base model with each scheme: for all frames at the least crop, for all crops at few frames."""
    clips = [(frames, SIZES[0]) for frames in FRAMES] + [(FRAMES[0], size) for size in SIZES[1:]]
    points: list[CostPoint] = []
    for scheme in get_args(AttentionType):
        config = TimesformerConfig.preset(architecture, attention_type=scheme)
        for frames, size in clips:
            count = summarize(config, num_frames=frames, size=(size, size)).multiply_adds
            points.append(CostPoint(scheme, frames, size, count))
    return points


def cost_figure(points: Sequence[CostPoint]) -> Figure:
    """Draws multiply-adds against the size of the crop and against the frames, a line for each scheme."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    figure.suptitle("TimeSformer base: multiply-adds of one clip", fontsize=12)
    axes: Any = figure.subplots(1, 2)
    for scheme, marker in zip(dict.fromkeys(point.attention_type for point in points), _MARKERS, strict=False):
        own = [point for point in points if point.attention_type == scheme]
        sides = [(point.size, point.multiply_adds / 1e12) for point in own if point.frames == FRAMES[0]]
        lengths = [(point.frames, point.multiply_adds / 1e12) for point in own if point.size == SIZES[0]]
        for panel, values in zip(axes, (sides, lengths), strict=True):
            panel.plot(*zip(*values, strict=True), marker=marker, label=scheme.replace("_", " "), alpha=0.85)
    axes[0].set(xlabel=f"crop in pixels, {FRAMES[0]} frames", xticks=SIZES, ylabel="tera multiply-adds")
    axes[1].set(xlabel=f"frames of {SIZES[0]} x {SIZES[0]} pixels", xticks=FRAMES, ylabel="tera multiply-adds")
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.set_ylim(bottom=0)
    axes[0].legend(fontsize=9)
    return figure


def accuracy_figure(name: str, rows: Sequence[VariantResult]) -> Figure:
    """Draws accuracy, with its spread over the seeds, against multiply-adds and the measured time of training."""
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    figure.suptitle(f"{name}: accuracy against cost", fontsize=12)
    axes: Any = figure.subplots(1, 2, sharey=True)
    for number, row in enumerate(rows):
        if row.accuracy is None or not row.multiply_adds or not row.train_clips_per_second:
            continue
        style = {
            "marker": _MARKERS[number % len(_MARKERS)],
            "markersize": 8,
            "capsize": 4,
            "linestyle": "none",
            "alpha": 0.8,
        }
        spread = 100 * (row.accuracy_spread or 0)
        for panel, cost in zip(axes, (row.multiply_adds / 1e6, 1e3 / row.train_clips_per_second), strict=True):
            panel.errorbar(cost, 100 * row.accuracy, spread, color=f"C{number % 10}", label=row.variant, **style)
    axes[0].set(xlabel="million multiply-adds of one clip, forward", ylabel="accuracy in %", ylim=(-3, 105))
    axes[1].set(xlabel="milliseconds of training a clip, measured")
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.set_xlim(left=0, right=1.08 * panel.get_xlim()[1])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), fontsize=9)
    return figure
