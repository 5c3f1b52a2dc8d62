"""Lattice and windows: what tokens see in sparse local-global attention.

lattice       "a sparse global attention over the entire clip using a stride of 2 patches along the temporal dimension
              and also the two spatial dimensions": a patch sees those whose frame, row and column differ from its own
              by even numbers. The stride counts from the query, as in the strided pattern of the sparse transformers
              that the paper cites (Child et al. 2019), not from the corner of the clip: so every patch is seen by
              someone, and all patches are within two steps of each other. That makes 2 x 2 x 2 groups of an eighth of
              the clip each. Where a length is odd, the shorter half is padded, and the padding is masked.
window        "local attention by considering the neighboring F x H/2 x W/2 patches": a patch sees all frames of a
              window of ceil(rows / 2) x ceil(columns / 2) places with itself in the middle (in an even window, just
              past the middle). At the borders the window is shifted, not cut off: each patch sees as many others.
              Patches of the first quarter of the rows share their windows' rows, and so do those of the last quarter;
              what is between them is cut into halves: four blocks of rows, times four of columns. Each of the sixteen
              blocks of queries meets the rectangle that its windows lie in, and what lies outside of a query's own
              window is masked. On 14 x 14 places that computes 31% of joint attention's matrix, where the windows are
              25%. (Exact windows would need sixteen copies of all keys and values.)
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

Grid = tuple[int, int]
"""Rows and columns of patches."""
Mask = Bool[np.ndarray, "..."]


def lattice_mask(sizes: tuple[int, int, int]) -> Bool[np.ndarray, "g m"] | None:
    """Which tokens of the lattice's groups there are; None where nothing is padded. Sizes: frames, rows, columns."""
    if all(size % stride(size) == 0 for size in sizes):
        return None
    with jax.ensure_compile_time_eval():
        there = to_lattice(jnp.ones((1, *sizes[1:], sizes[0], 1, 1), bool))
        return np.asarray(there)[0, :, :, 0, 0]


def stride(size: int) -> int:
    """The lattice's stride along an axis of so many frames, rows or columns."""
    return min(2, size)


def to_lattice(placed: Shaped[Array, "b rows columns t h k"]) -> Shaped[Array, "b g m h k"]:
    """Groups by the phase in frames, rows and columns, and in each frame by frame, row by row; padded with zeros."""
    batch, *sizes, heads, width = placed.shape
    padding = [(0, 0), *((0, -size % stride(size)) for size in sizes), (0, 0), (0, 0)]
    split = [part for size in sizes for part in (-(-size // stride(size)), stride(size))]
    parts = jnp.pad(placed, padding).reshape(batch, *split, heads, width)
    return jnp.einsum("byixjtfhk->bfijtyxhk", parts).reshape(batch, math.prod(split[1::2]), -1, heads, width)


def from_lattice(
    groups: Shaped[Array, "b g h m k"], sizes: tuple[int, int, int]
) -> Shaped[Array, "b rows columns t h k"]:
    """The inverse of `to_lattice`, but for the order of axes. Sizes: frames, rows, columns."""
    batch, _, heads, _, width = groups.shape
    phases, counts = [stride(size) for size in sizes], [-(-size // stride(size)) for size in sizes]
    parts = jnp.einsum("bfijhtyxk->byixjtfhk", groups.reshape(batch, *phases, heads, *counts, width))
    frames, rows, columns = (phase * count for phase, count in zip(phases, counts, strict=True))
    placed = parts.reshape(batch, rows, columns, frames, heads, width)
    return placed[:, : sizes[1], : sizes[2], : sizes[0]]


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


def window_blocks(grid: Grid) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """The blocks of queries in a frame, row by row: (own, seen) rows and (own, seen) columns of each."""
    return list(itertools.product(query_blocks(grid[0]), query_blocks(grid[1])))


@functools.cache
def window_masks(grid: Grid, frames: int) -> list[Mask | None]:
    """For each block, which tokens are in a query's window; None where all of the block's rectangle are."""
    masks: list[np.ndarray | None] = []
    for block in window_blocks(grid):
        inside: list[np.ndarray] = []
        for length, (own, seen) in zip(grid, block, strict=True):
            size, starts = window(length)
            offset = np.arange(seen.start, seen.stop) - starts[own][:, None]
            inside.append((offset >= 0) & (offset < size))
        mask = np.kron(*inside)
        # Frames stand last: a place, masked or not, is so for all of them.
        masks.append(None if mask.all() else mask.repeat(frames, axis=0).repeat(frames, axis=1))
    return masks


def from_blocks(
    groups: list[Shaped[Array, "b 1 h _ k"]], grid: Grid, frames: int
) -> Shaped[Array, "b rows columns t h k"]:
    """Puts the tokens of all blocks of queries into their places."""
    batch, _, heads, _, width = groups[0].shape
    blocks, bands = iter(groups), []
    for down, _ in query_blocks(grid[0]):
        height = down.stop - down.start
        band = [next(blocks).reshape(batch, heads, height, -1, frames, width) for _ in query_blocks(grid[1])]
        bands.append(jnp.concatenate(band, axis=3))
    return jnp.einsum("bhyxtk->byxthk", jnp.concatenate(bands, axis=2))


def own_window(probabilities: Float[Array, "b 1 h q s"], mask: Mask | None) -> Float[Array, "b 1 h q window"]:
    """The probabilities of a block's queries on their own windows, without the rest of the rectangle."""
    if mask is None:
        return probabilities
    own = np.nonzero(mask)[1].reshape(1, 1, 1, len(mask), -1)
    return jnp.take_along_axis(probabilities, own, axis=4)
