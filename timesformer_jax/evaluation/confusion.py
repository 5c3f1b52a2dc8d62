"""The confusion matrix as a picture."""

from pathlib import Path

import numpy as np

from .metrics import Evaluation

MOST_DRAWN = 2000
"""Of more classes the picture would have less than a pixel for each, and take gigabytes to draw."""

_NAMED = 60
"""Up to so many classes have their names beside the picture."""


def draw_confusion(evaluation: Evaluation, path: Path) -> None:
    """Draws, as a PNG, which share of each class (row) is taken for which class (column)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = evaluation.confusion / np.maximum(evaluation.class_videos[:, None], 1)
    names, number = evaluation.classes, len(evaluation.classes)
    size = min(20.0, 4 + 0.25 * number)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    figure.colorbar(picture, label="share of the class's videos", fraction=0.046)
    axes.set(xlabel="predicted", ylabel="class", title=f"top-1 {evaluation.top1:.1%} of {evaluation.videos} videos")
    if number <= _NAMED:
        axes.set_xticks(range(number), [_plain(name) for name in names], rotation=90, fontsize=8)
        axes.set_yticks(range(number), [_plain(name) for name in names], fontsize=8)
    if number <= 12:
        for (row, column), share in np.ndenumerate(shares):
            color = "white" if share < 0.6 else "black"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=color, fontsize=8)
    FigureCanvasAgg(figure).print_png(path)


def _plain(name: str) -> str:
    # Dollar signs would begin a formula.
    return name.replace("$", r"\$")
