"""A picture of the five attention schemes: which patches one patch sees, step by step (after the paper's figure 3).

It is drawn from the functions that the model computes with, not from a description of them:

    save_figure(scheme_figure(), Path("docs/images/schemes.png"))
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from timesformer_jax.config import AttentionType, TimesformerConfig
from timesformer_jax.model.sparse_groups import Grid
from timesformer_jax.model.token_groups import TokenGroups
from timesformer_jax.schemes import GroupKind, attention_steps

_QUERY, _STEPS, _UNSEEN = "#1f4e8c", ("#e8a33d", "#4f9d69", "#b8578a"), "#eceff2"
_NAMES: dict[AttentionType, str] = {
    "space_only": "space only",
    "joint_space_time": "joint",
    "divided_space_time": "divided",
    "sparse_local_global": "sparse local-global",
    "axial": "axial",
}
_GROUPS: dict[GroupKind, str] = {
    "time": "time",
    "frame": "space",
    "clip": "the whole clip",
    "row": "width",
    "column": "height",
    "window": "local",
    "lattice": "sparse global",
}


def seen_patches(
    kind: GroupKind, grid: Grid, frames: int, place: tuple[int, int, int]
) -> Bool[np.ndarray, "t rows columns"]:
    """The patches that a patch sees in a step.

    Args:
        kind: of the step's groups.
        grid: rows and columns of patches.
        frames: of the clip.
        place: frame, row and column of the patch that looks.
    """
    numbers = np.arange(frames * grid[0] * grid[1]).reshape(frames, *grid)
    tokens = jnp.asarray(1 + numbers.reshape(frames, -1).T[None, :, :, None, None])  # 0 is padding
    groups, cls = TokenGroups(kind, grid, frames), jnp.zeros((1, 1, 1, 1, 1), tokens.dtype)
    seen = np.zeros((frames, *grid), bool)
    for own, others, mask in zip(
        groups.gather(cls, tokens, seen=False), groups.gather(cls, tokens), groups.masks(), strict=True
    ):
        for query, keys in zip(own[0, :, 0, :, 0], others[0, :, 0, :, 0], strict=True):
            (rows,) = np.nonzero(np.asarray(query) == 1 + numbers[place])
            if rows.size:
                keys = np.asarray(keys)
                keys = keys if mask is None or kind == "lattice" else keys[np.asarray(mask)[rows[0]]]
                seen |= np.isin(1 + numbers, keys)
    return seen


def scheme_figure(grid: Grid = (8, 8), frames: int = 5) -> Figure:
    """A column for each scheme, a row for each frame; the patch that looks is in the middle.

    Args:
        grid: rows and columns of patches.
        frames: of the clip.
    """
    place = (frames // 2, grid[0] // 2, grid[1] // 2)
    schemes = list(_NAMES)
    figure = Figure(figsize=(2.1 * len(schemes), 1.55 * frames + 1.5), layout="constrained")
    axes: Any = figure.subplots(frames, len(schemes), squeeze=False)
    for column, scheme in enumerate(schemes):
        steps = attention_steps(TimesformerConfig(attention_type=scheme))
        seen = [seen_patches(step.groups, grid, frames, place) for step in steps]
        names = [_GROUPS[step.groups] for step in steps]
        for frame in range(frames):
            _draw_frame(axes[frame, column], [step[frame] for step in seen], place[1:] if frame == place[0] else None)
            if column == 0:
                offset = frame - place[0]
                axes[frame, 0].set_ylabel(f"frame t {offset:+d}" if offset else "frame t")
        axes[0, column].set_title(_NAMES[scheme], fontsize=12)
        keys = [Patch(color=colour, label=name) for colour, name in zip(_STEPS, names, strict=False)]
        axes[-1, column].legend(
            handles=keys, loc="upper center", bbox_to_anchor=(0.5, -0.04), frameon=False, fontsize=9, handlelength=1
        )
    return figure


def _draw_frame(axes: Any, seen: list[np.ndarray], query: tuple[int, ...] | None) -> None:
    rows, columns = seen[0].shape
    axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[], aspect="equal")
    for row in range(rows):
        for column in range(columns):
            colours = [colour for colour, step in zip(_STEPS, seen, strict=False) if step[row, column]] or [_UNSEEN]
            if (row, column) == query:
                colours = [_QUERY]
            for depth, colour in enumerate(colours):  # what several steps see is drawn inside each other
                inset = 0.06 + 0.2 * depth
                side = 1 - 2 * inset
                axes.add_patch(Rectangle((column + inset, row + inset), side, side, color=colour, lw=0))
    for spine in axes.spines.values():
        spine.set_visible(False)
