"""Attention probabilities as they are: what CLS looks at in space, and a chosen patch in time; layer by layer."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Float

from ..checkpoints.mapping import Params
from ..config import TimesformerConfig
from ..model.token_groups import Grid, num_groups, ungroup
from ..schemes import TIME, has_temporal_attention, reach_of_cls
from .layerwise import Attention, Model, grid_of, run_layers


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
    reach = reach_of_cls(model.config)
    for _, attentions in run_layers(model, params, pixel_values):
        of_cls = _of_cls(attentions["attention"][0])
        if reach == "frame":
            # (b, h, groups, patches); joint attention's one group holds them patch by patch, frame by frame.
            of_cls = np.asarray(of_cls).swapaxes(1, 2)
            batch, heads, groups, _ = of_cls.shape
            placed = of_cls.reshape(batch, heads, groups, rows, columns, frames // groups).transpose(0, 1, 2, 5, 3, 4)
        else:
            patches = np.asarray(ungroup(of_cls.mT, reach, (rows, columns), frames))
            batch, _, _, heads = patches.shape
            placed = patches.reshape(batch, rows, columns, frames, heads).transpose(0, 4, 3, 1, 2)
        space.append(placed.reshape(batch, heads, frames, rows, columns))
        if patch is not None:
            time.append(np.asarray(_of_patch(attentions[TIME.attention][0], index)))
    return AttentionMaps(np.stack(space), np.stack(time) if time else None)


def patches_beside_cls(config: TimesformerConfig, frames: int, grid: Grid) -> int:
    """How many patches CLS spreads its attention over at a time: the unit of `AttentionMaps.space`."""
    patches = grid[0] * grid[1]
    if config.attention_type == "joint_space_time":
        return patches * frames
    reach = reach_of_cls(config)
    return patches if reach == "frame" else patches * frames // num_groups(reach, grid, frames)


@jax.jit
def _of_cls(spatial: Attention) -> Float[Array, "b groups h patches"]:
    return spatial.probabilities(slice(1))[..., 0, 1:]


@jax.jit
def _of_patch(temporal: Attention, index: Array | int) -> Float[Array, "b h t t"]:
    query, key, value = (array[:, index, None] for array in (temporal.query, temporal.key, temporal.value))
    return Attention(query, key, value).probabilities(slice(None))[:, 0]
