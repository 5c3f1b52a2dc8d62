"""Attention probabilities as they are: what CLS looks at in space, and a chosen patch in time; layer by layer."""

import dataclasses
import functools

import jax
import numpy as np
from jaxtyping import Array, Float

from ..checkpoints.mapping import Params
from ..config import TimesformerConfig
from ..model.token_groups import Grid, TokenGroups
from ..schemes import TIME, has_temporal_attention, step_of_cls
from .layer_attentions import AttentionInputs, Model, grid_of, run_layers


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """The probabilities of every layer and head.

    Attributes:
        space: how much CLS attends to each patch. With divided and space-only attention those of a frame and of CLS
            itself, which is left out, sum to one; with joint attention those of all frames do; with axial attention
            those of a column of a frame (over height); with sparse local-global attention those of every second frame,
            row and column (over the lattice).
        time: how much a patch attends to its own place in every frame; row i is of the patch in frame i, and sums to
            one. None where no patch was chosen.
    """

    space: Float[np.ndarray, "layers b h t rows columns"]
    time: Float[np.ndarray, "layers b h t t"] | None


def attention_maps(
    model: Model,
    params: Params,
    pixel_values: Float[Array | np.ndarray, "b t height width c"],
    *,
    patch: tuple[int, int] | None = None,
) -> AttentionMaps:
    """Runs clips through the model and keeps what CLS, and one patch, attend to.

    Args:
        model: of any attention type.
        params: its parameters.
        pixel_values: normalised clips, as for the model.
        patch: row and column of the patch whose temporal attention is wanted, counted from 0 at the top left.

    Raises:
        ValueError: there is no such patch, or it has no temporal attention: only divided and axial attention do.
    """
    frames, rows, columns = grid_of(model, pixel_values)
    index = 0
    if patch is not None:
        if not has_temporal_attention(model.config):
            raise ValueError(f"{model.config.attention_type} attention has no step over time alone.")
        if not (0 <= patch[0] < rows and 0 <= patch[1] < columns):
            raise ValueError(f"there is no patch {patch}: rows count from 0 to {rows - 1}, columns to {columns - 1}.")
        index = patch[0] * columns + patch[1]
    space: list[np.ndarray] = []
    time: list[np.ndarray] = []
    step = step_of_cls(model.config)
    groups = TokenGroups(step.groups, (rows, columns), frames)
    for _, attentions in run_layers(model, params, pixel_values):
        of_cls = np.asarray(_of_cls(groups, attentions[step.attention][0]))
        batch, _, _, heads = of_cls.shape
        space.append(of_cls.reshape(batch, rows, columns, frames, heads).transpose(0, 4, 3, 1, 2))
        if patch is not None:
            time.append(np.asarray(_of_patch(attentions[TIME.attention][0], index)))
    return AttentionMaps(np.stack(space), np.stack(time) if time else None)


def patches_beside_cls(config: TimesformerConfig, frames: int, grid: Grid) -> int:
    """How many patches CLS spreads its attention over at a time: the unit of `AttentionMaps.space`."""
    groups = TokenGroups(step_of_cls(config).groups, grid, frames)
    cls, patches = (jax.ShapeDtypeStruct((1, *shape, 1, 1), bool) for shape in ((1, 1), (grid[0] * grid[1], frames)))
    (gathered,) = jax.eval_shape(groups.gather, cls, patches)
    return frames * grid[0] * grid[1] // gathered.shape[1]


@functools.partial(jax.jit, static_argnums=0)
def _of_cls(groups: TokenGroups, attention: AttentionInputs) -> Float[Array, "b n t h"]:
    """How much the copies of CLS attend to each patch of their groups."""
    probabilities = attention.probabilities(slice(1))
    return groups.scatter([probabilities.mT])[1][..., 0]


@jax.jit
def _of_patch(temporal: AttentionInputs, index: Array | int) -> Float[Array, "b h t t"]:
    query, key, value = (array[:, index, None] for array in (temporal.query, temporal.key, temporal.value))
    return AttentionInputs(query, key, value).probabilities()[:, 0]
