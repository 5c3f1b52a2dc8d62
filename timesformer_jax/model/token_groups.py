"""What tokens see in axial and in sparse local-global attention: groups, lattice and windows of patches.

They are made so that attention costs what the schemes promise (neighbourhood_attention.py computes it).

The patches of a clip are (b, n, t, ...): n = rows x columns places, row by row, in t frames. Letters are those of
modeling.py. The choices that the paper's section 3 leaves open are explained here; those about CLS in schemes.py.

row, column   A patch sees those of its row (or column) of its frame: groups of `columns` (`rows`) tokens, by reshapes.

lattice       "a sparse global attention over the entire clip using a stride of 2 patches along the temporal dimension
              and also the two spatial dimensions": a patch sees those whose frame, row and column differ from its own
              by even numbers, itself included. The stride counts from the query, as in the strided pattern of the
              sparse transformers that the paper cites (Child et al. 2019), not from the corner of the clip: so every
              patch is seen by someone, and all patches of the clip are within two steps of each other. That makes
              2 x 2 x 2 groups of an eighth of the clip's tokens each, by reshapes. An odd length makes one half longer
              by one: the shorter is padded, and the padding is masked. A length of one is one group.

window        "local attention by considering the neighboring F x H/2 x W/2 patches": a patch sees all frames of a
              window of ceil(rows / 2) x ceil(columns / 2) places with itself in the middle (in an even window, just
              past the middle). At the borders the window is shifted, not cut off: each patch sees as many others, as
              the text says. ceil, so that there is a window however small the grid.

              Patches of the first quarter of the rows share their windows' rows, and so do those of the last quarter;
              what is between them is cut into halves: four blocks of rows, times four of columns. Each of the sixteen
              blocks of queries meets the rectangle that its windows lie in, and only what lies outside of a query's own
              window is masked; in the corners nothing is. On 14 x 14 places that computes 31% of joint attention's
              matrix, where the windows are 25%; on large grids it nears 39%. (Exact windows would be gathered place by
              place: sixteen copies of all keys and values, and products of a frame count of rows.)
"""

import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from ..schemes import Reach

Grid = tuple[int, int]
"""Rows and columns of patches."""


def group(tokens: Shaped[Array, "b n t *f"], reach: Reach, grid: Grid) -> Shaped[Array, "b g m *f"]:
    """Patches in groups (g) of those (m) that see each other.

    Args:
        tokens: or whatever else belongs to the patches.
        reach: "row" (g is frame, row), "column" (frame, column) or "lattice" (g is the phase in frames, rows and
            columns; m runs over frames, rows, columns, padded with zeros where `lattice_mask` is False).
        grid: rows and columns of patches.
    """
    batch, _, frames, *features = tokens.shape
    placed = tokens.reshape(batch, *grid, frames, *features)
    match reach:
        case "row":
            return _transposed(placed, (0, 3, 1, 2)).reshape(batch, frames * grid[0], grid[1], *features)
        case "column":
            return _transposed(placed, (0, 3, 2, 1)).reshape(batch, frames * grid[1], grid[0], *features)
        case "lattice":
            lengths = (*grid, frames)
            padding = [(0, 0), *((0, -length % stride(length)) for length in lengths), *[(0, 0)] * len(features)]
            split = [part for length in lengths for part in (-(-length // stride(length)), stride(length))]
            if any(after for _, after in padding):
                placed = jnp.pad(placed, padding)
            ordered = _transposed(placed.reshape(batch, *split, *features), (0, 6, 2, 4, 5, 1, 3))
            return ordered.reshape(batch, math.prod(split[1::2]), math.prod(split[::2]), *features)
        case _:
            raise ValueError(f"{reach!r} does not cut a clip into groups.")


def ungroup(groups: Shaped[Array, "b g m *f"], reach: Reach, grid: Grid, frames: int) -> Shaped[Array, "b n t *f"]:
    """The inverse of `group`; padding is left out."""
    (batch, _, _, *features), (rows, columns) = groups.shape, grid
    match reach:
        case "row":
            placed = _transposed(groups.reshape(batch, frames, rows, columns, *features), (0, 2, 3, 1))
        case "column":
            placed = _transposed(groups.reshape(batch, frames, columns, rows, *features), (0, 3, 2, 1))
        case "lattice":
            strides = [stride(length) for length in (frames, rows, columns)]
            counts = [-(-length // stride(length)) for length in (frames, rows, columns)]
            ordered = _transposed(groups.reshape(batch, *strides, *counts, *features), (0, 5, 2, 6, 3, 4, 1))
            padded = [count * step for count, step in zip(counts, strides, strict=True)]
            placed = ordered.reshape(batch, *padded[1:], padded[0], *features)[:, :rows, :columns, :frames]
        case _:
            raise ValueError(f"{reach!r} does not cut a clip into groups.")
    return placed.reshape(batch, rows * columns, frames, *features)


def stride(length: int) -> int:
    """Of the lattice, along an axis of so many frames, rows or columns."""
    return min(2, length)


def lattice_mask(grid: Grid, frames: int) -> Bool[np.ndarray, "g m"] | None:
    """Which tokens of the lattice's groups there are; None where all are, and nothing is padded."""
    lengths = (frames, *grid)
    if all(length % stride(length) == 0 for length in lengths):
        return None
    mask = np.ones((), bool)
    for length in lengths:  # phases in front, places behind
        places = np.arange(length + length % stride(length)).reshape(-1, stride(length)).T
        mask = mask[..., None, None] & (places < length)
    order = (0, 2, 4, 1, 3, 5)
    return mask.transpose(order).reshape(math.prod(map(stride, lengths)), -1)


def window(length: int) -> tuple[int, Int[np.ndarray, " length"]]:
    """Along an axis of so many rows or columns: how many of them a place sees, and the first that it sees."""
    size = -(-length // 2)
    return size, np.clip(np.arange(length) - size // 2, 0, length - size)


def query_blocks(length: int) -> list[tuple[slice, slice]]:
    """Blocks of queries along an axis, each with the stretch that all its windows lie in."""
    size, starts = window(length)
    first, last = int((starts == 0).sum()), int((starts < length - size).sum())
    cuts = sorted({0, length} if last == 0 else {0, first, (first + last) // 2, last, length})
    return [
        (slice(start, stop), slice(int(starts[start]), int(starts[stop - 1]) + size))
        for start, stop in itertools.pairwise(cuts)
    ]


def window_block(grid: Grid, queries: tuple[slice, slice], keys: tuple[slice, slice]) -> Bool[np.ndarray, "q s"]:
    """Which places of a block of keys are in the windows of a block of queries, row by row; of one frame each."""
    inside: list[np.ndarray] = []
    for length, own, seen in zip(grid, queries, keys, strict=True):
        size, starts = window(length)
        offset = np.arange(seen.start, seen.stop) - starts[own][:, None]
        inside.append((offset >= 0) & (offset < size))
    return np.kron(*inside)


def window_pieces(patches: Shaped[Array, "b n t *f"], grid: Grid, *, keys: bool) -> list[Shaped[Array, "b m *f"]]:
    """The patches of each block of queries, or of the rectangle that it sees; block by block, as in `window_attention`.

    Args:
        patches: or whatever belongs to them.
        grid: rows and columns of patches.
        keys: whether those that are seen are wanted.
    """
    batch, _, frames, *features = patches.shape
    placed = patches.reshape(batch, *grid, frames, *features)
    blocks = itertools.product(*map(query_blocks, grid))
    return [placed[:, rows[keys], columns[keys]].reshape(batch, -1, *features) for rows, columns in blocks]


def window_masks(grid: Grid, frames: int) -> list[Bool[np.ndarray, "q s"] | None]:
    """Of each block of `window_pieces`, which tokens are in a query's window; None where all are."""
    masks: list[np.ndarray | None] = []
    for rows, columns in itertools.product(*map(query_blocks, grid)):
        inside = window_block(grid, (rows[0], columns[0]), (rows[1], columns[1]))
        # Frames stand last: a place, masked or not, is so for all of them.
        masks.append(None if inside.all() else inside.repeat(frames, axis=0).repeat(frames, axis=1))
    return masks


def from_windows(pieces: Sequence[Float[Array, "b m"]], grid: Grid, frames: int) -> Float[Array, "b n t"]:
    """The transpose of `window_pieces` with keys: what belongs to one patch in several rectangles is added up."""
    batch = len(pieces[0])
    total = jnp.zeros((batch, *grid, frames), pieces[0].dtype)
    for piece, (rows, columns) in zip(pieces, itertools.product(*map(query_blocks, grid)), strict=True):
        sizes = (rows[1].stop - rows[1].start, columns[1].stop - columns[1].start)
        total = total.at[:, rows[1], columns[1]].add(piece.reshape(batch, *sizes, frames))
    return total.reshape(batch, -1, frames)


def num_groups(reach: Reach, grid: Grid, frames: int) -> int:
    """Into how many groups `group` cuts a clip."""
    return {"row": frames * grid[0], "column": frames * grid[1]}.get(reach, math.prod(map(stride, (frames, *grid))))


def with_copies(
    cls: Float[Array, "b 1 1 c h k"], patches: Float[Array, "b n t c h k"], reach: Reach, grid: Grid
) -> Float[Array, "c b g h s k"]:
    """The tokens of each group, a copy of CLS first."""
    groups = group(patches, reach, grid)
    copies = jnp.broadcast_to(cls, (*groups.shape[:2], 1, *groups.shape[3:]))
    return jnp.einsum("bgschk->cbghsk", jnp.concatenate([copies, groups], axis=2))


def padding_mask(reach: Reach, grid: Grid, frames: int) -> Bool[np.ndarray, "g s"] | None:
    """Which tokens of the groups there are, CLS first; None where all are."""
    mask = lattice_mask(grid, frames) if reach == "lattice" else None
    return None if mask is None else np.pad(mask, ((0, 0), (1, 0)), constant_values=True)


def _transposed(array: Shaped[Array, "..."], order: tuple[int, ...]) -> Shaped[Array, "..."]:
    """With the first axes in another order."""
    return jnp.transpose(array, (*order, *range(len(order), array.ndim)))
