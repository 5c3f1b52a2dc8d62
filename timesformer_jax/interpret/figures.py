"""Pictures of what a model attends to: attention maps, rollout and relevance over frames, and the embeddings.

    patches, own = attention_rollout(model, params, pixel_values)
    save_figure(overlay_figure(frames, patches[0], Scale.of(patches, "share of CLS"), "attention rollout"), path)

Figures are matplotlib's, made without its global state; save them with `save_figure`, or show them in a notebook.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..checkpoints.mapping import Params
from ..schemes import has_position_embeddings
from ..support.files import write_atomically
from .layer_attentions import Model, backbone
from .overlay import COLOURS, Scale, enlarge, overlay

_MOST_FRAMES = 8
"""That one picture shows; of longer clips it shows so many, evenly spread."""

_WIDTH = 13.0
"""Of the frames beside each other, in inches: about so much, but neither tiny nor huge."""

_SMOOTH = 192
"""Pixels in the height of a frame, at least, that colours are laid over."""

_MATRIX_WIDTH, _STRIP_HEIGHT = 5.4, 0.7
"""Of the two parts of the temporal picture, in inches."""

_DOTS_PER_INCH = 120


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DOTS_PER_INCH)


def overlay_figure(
    frames: UInt8[np.ndarray, "t h w 3"], maps: Float[np.ndarray, "t rows columns"], scale: Scale, title: str
) -> Figure:
    """Frames above, and the same with their maps laid over them below, with the scale of the colours.

    Args:
        frames: of the clip, as the model sees them.
        maps: a weight for each patch.
        scale: of the colours.
        title: of the picture.
    """
    shown = shown_frames(len(frames))
    if len(shown) < len(frames):
        title = f"{title} ({len(shown)} of {len(frames)} frames)"
    aspect = frames.shape[2] / frames.shape[1]
    height = float(np.clip(_WIDTH / (aspect * len(shown)), 1.2, 3.5))
    figure = _figure(max(aspect * height * len(shown) + 1.4, 5.0), 2 * height + 0.9, title, layout="compressed")
    frames = enlarge(frames[shown], _SMOOTH)
    axes: Any = figure.subplots(2, len(shown), squeeze=False)
    for column, (index, laid_over) in enumerate(zip(shown, overlay(frames, maps[shown], scale), strict=True)):
        for row, picture in enumerate((frames[column], laid_over)):
            axes[row, column].imshow(picture)
            axes[row, column].set_axis_off()
        axes[0, column].set_title(f"frame {index + 1}", fontsize=9)
    _colour_bar(figure, axes, scale, COLOURS)
    return figure


def temporal_figure(
    frames: UInt8[np.ndarray, "t h w 3"],
    attention: Float[np.ndarray, "t t"],
    patch: tuple[int, int],
    patch_shape: tuple[int, int],
    title: str,
) -> Figure:
    """What a patch attends to in time: a row for each frame that attends, a column for each that is attended to.

    Args:
        frames: of the clip, as the model sees them.
        attention: probabilities; each row sums to one.
        patch: row and column, counted from 0 at the top left.
        patch_shape: (height, width) of a patch in pixels.
        title: of the picture.
    """
    count, (frame_height, frame_width) = len(frames), frames.shape[1:3]
    (row, height), (column, width) = (
        (place * pixels, pixels) for place, pixels in zip(patch, patch_shape, strict=True)
    )
    left_width = float(np.clip(4.6 * frame_width / frame_height, 1.8, 5.5))
    figure = _figure(left_width + _MATRIX_WIDTH + 1.2, 5.4, title)
    halves: Any = figure.subfigures(1, 2, width_ratios=[left_width, _MATRIX_WIDTH + 1.2])
    left, right = halves
    where: Any = left.subplots()
    where.imshow(frames[0])
    edges = (column - 0.5, row - 0.5)
    where.add_patch(Rectangle(edges, width, height, fill=False, edgecolor="cyan", linewidth=2))
    where.set_title(f"patch in row {patch[0]}, column {patch[1]}", fontsize=9)
    where.set_axis_off()

    strip, matrix = right.subplots(2, 1, height_ratios=[1, 5], sharex=True)
    shown = _middles(count)
    # The patch with its neighbours: sixteen pixels alone tell a person little.
    rows, columns = slice(max(row - height, 0), row + 2 * height), slice(max(column - width, 0), column + 2 * width)
    cell = _MATRIX_WIDTH / len(shown) / _STRIP_HEIGHT
    cells = [_widened(frames[index, rows, columns], cell) for index in shown]
    strip.imshow(np.concatenate(cells, axis=1), aspect="auto", extent=(0.5, count + 0.5, 0, 1))
    strip.set_yticks([])
    strip.tick_params(bottom=False, labelbottom=False)
    strip.spines[:].set_visible(False)
    strip.set_title("the patch and its surroundings, over time", fontsize=9)
    scale = Scale.of(attention, "attention probability")
    edges = (0.5, count + 0.5, count + 0.5, 0.5)
    matrix.imshow(attention, COLOURS, vmin=scale.lowest, vmax=scale.highest, aspect="auto", extent=edges)
    ticks = shown + 1
    matrix.set_xticks(ticks, [str(tick) for tick in ticks])
    matrix.set_yticks(ticks, [str(tick) for tick in ticks])
    matrix.set_xlabel("attended frame")
    matrix.set_ylabel("attending frame")
    _colour_bar(right, [strip, matrix], scale, COLOURS)
    return figure


def embedding_figure(model: Model, params: Params, title: str = "similarity of the embeddings") -> Figure:
    """Cosine similarities: of each place's embedding to those of all places, and of each frame's to all frames'.

    Raises:
        ValueError: the model has no position embeddings.
    """
    if not has_position_embeddings(model.config):
        raise ValueError("the model has no position embeddings (position_embedding_type is 'none') to be drawn.")
    embeddings = backbone(model, params)["embeddings"]
    space = cosine_similarity(np.asarray(embeddings["position_embeddings"], np.float64)[1:])
    rows, columns = model.config.grid
    has_time = "time_embeddings" in embeddings
    figure = _figure(12.5 if has_time else 7.0, 6.3, title)
    axes: Any = figure.subplots(1, 1 + has_time, squeeze=False)[0]
    # A small picture for each place, laid out as the places are, with a gap between them.
    tiles = np.full((rows, rows + 1, columns, columns + 1), np.nan)
    tiles[:, :rows, :, :columns] = space.reshape(rows, columns, rows, columns).transpose(0, 2, 1, 3)
    picture = tiles.reshape(rows * (rows + 1), columns * (columns + 1))[:-1, :-1]
    axes[0].set_facecolor("lightgray")
    axes[0].imshow(picture, "RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes[0].set_xticks(*_ticks(columns, columns + 1, (columns - 1) / 2))
    axes[0].set_yticks(*_ticks(rows, rows + 1, (rows - 1) / 2))
    axes[0].set_xlabel("column of the patch")
    axes[0].set_ylabel("row of the patch")
    axes[0].set_title("space: each place's picture shows its similarity to all places", fontsize=9)
    if has_time:
        time = np.asarray(embeddings["time_embeddings"], np.float64)
        axes[1].imshow(cosine_similarity(time), "RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axes[1].set_xticks(*_ticks(len(time), 1, 0.0, first=1))
        axes[1].set_yticks(*_ticks(len(time), 1, 0.0, first=1))
        axes[1].set_xlabel("frame")
        axes[1].set_ylabel("frame")
        axes[1].set_title("time" if time.any() else "time (all embeddings are zero)", fontsize=9)
    _colour_bar(figure, axes, Scale(-1.0, 1.0, "cosine similarity"), "RdBu_r")
    return figure


def cosine_similarity(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Of each vector with each; 0 where one is zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit @ unit.T


def shown_frames(count: int) -> np.ndarray:
    """The frames of a clip that one picture shows: all, or so many evenly spread from the first to the last."""
    return np.unique(np.round(np.linspace(0, count - 1, min(count, _MOST_FRAMES))).astype(int))


def _middles(count: int) -> np.ndarray:
    """The frames in the middle of at most so many equal parts of a clip as one picture shows."""
    parts = min(count, _MOST_FRAMES)
    return ((np.arange(parts) + 0.5) * count / parts).astype(int)


def _widened(picture: UInt8[np.ndarray, "h w 3"], aspect: float) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A picture with white beside it, or above and below, so that its width is so many times its height."""
    height, width = picture.shape[:2]
    beside = max(1, round((aspect * height - width) / 2)) if aspect * height > width else 0
    above = max(0, round((width / aspect - height) / 2))
    return np.pad(picture, ((above, above), (beside, beside), (0, 0)), constant_values=255)


def _ticks(count: int, step: int, offset: float, first: int = 0) -> tuple[list[float], list[str]]:
    """Positions and labels of at most eight ticks."""
    every = -(-count // 8)
    numbers = range(0, count, every)
    return [offset + step * number for number in numbers], [str(first + number) for number in numbers]


def _figure(
    width: float, height: float, title: str, layout: Literal["constrained", "compressed"] = "constrained"
) -> Figure:
    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle(title.replace("$", r"\$"), fontsize=11, wrap=True)  # dollars in a label begin no formula
    return figure


def _colour_bar(figure: Any, axes: Any, scale: Scale, colours: str) -> None:
    mappable = ScalarMappable(Normalize(scale.lowest, scale.highest), colours)
    figure.colorbar(mappable, ax=axes, label=scale.label, pad=0.02)
