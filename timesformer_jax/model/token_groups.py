"""Which tokens see each other in an attention step: groups of a clip's tokens, and the way there and back.

The patches of a clip are (b, n, t, ...): n = rows x columns places, row by row, in t frames. Letters are those of
modeling.py; g counts groups, m the patches of a group. Where CLS takes part, each group gets a copy of it in front.

time          A patch sees its own place in all frames (equation 11; as in the paper's code, without CLS): g is a place.
frame         A token sees its frame (equation 6): g is the frame. With space-only attention each frame has a CLS of its
              own, in divided attention a copy of the clip's.
clip          A token sees the whole clip (equation 5): there is one group.
row, column   A patch sees its row (or column) of its frame: g is frame and row (or frame and column).
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

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from ..schemes import GroupKind

Grid = tuple[int, int]
"""Rows and columns of patches."""
Mask = Bool[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class TokenGroups:
    """The groups of one attention step in clips of one size.

    Attributes:
        kind: what makes a group, see above.
        grid: rows and columns of patches.
        frames: of a clip.
    """

    kind: GroupKind
    grid: Grid
    frames: int

    @property
    def count(self) -> int:
        """How many groups there are of those that CLS takes part in."""
        rows, columns = self.grid
        lattice = math.prod(map(_stride, (self.frames, rows, columns)))
        counts = {"frame": self.frames, "row": self.frames * rows, "column": self.frames * columns, "lattice": lattice}
        return counts.get(self.kind, 1)

    def gather(
        self, cls: Shaped[Array, "b 1 t_cls h k"] | None, patches: Shaped[Array, "b n t h k"], *, seen: bool = True
    ) -> list[Shaped[Array, "b g h _ k"]]:
        """Puts tokens (their queries, keys or values) into groups: one array, or for windows one for each block.

        Args:
            cls: of the clip, or of each frame; None where CLS takes no part.
            patches: of the clip.
            seen: whether the tokens are those that are seen (keys and values); it matters for windows alone.
        """
        batch, _, frames, heads, width = patches.shape
        rows, columns = self.grid
        placed = patches.reshape(batch, rows, columns, frames, heads, width)
        match self.kind:
            case "time":
                return [jnp.einsum("bnthk->bnhtk", patches)]
            case "window":
                blocks = (placed[:, down[seen], across[seen]] for down, across in window_blocks(self.grid))
                return [jnp.einsum("byxthk->bhyxtk", x).reshape(batch, 1, heads, -1, width) for x in blocks]
            case "frame":
                assert cls is not None
                copies = jnp.broadcast_to(cls, (batch, 1, frames, heads, width))
                return [jnp.einsum("bsthk->bthsk", jnp.concatenate([copies, patches], axis=1))]
            case "clip":
                groups = placed.reshape(batch, 1, -1, heads, width)
            case "row":
                groups = jnp.einsum("byxthk->btyxhk", placed).reshape(batch, -1, columns, heads, width)
            case "column":
                groups = jnp.einsum("byxthk->btxyhk", placed).reshape(batch, -1, rows, heads, width)
            case "lattice":
                groups = _to_lattice(placed)
        assert cls is not None
        copies = jnp.broadcast_to(cls, (batch, groups.shape[1], 1, heads, width))
        return [jnp.einsum("bgshk->bghsk", jnp.concatenate([copies, groups], axis=2))]

    def scatter(
        self, groups: list[Shaped[Array, "b g h _ k"]]
    ) -> tuple[Shaped[Array, "b 1 g h k"] | None, Shaped[Array, "b n t h k"]]:
        """Takes tokens out of their groups: each group's copy of CLS (None where it takes no part), and the patches."""
        (rows, columns), frames = self.grid, self.frames
        batch, _, heads, _, width = groups[0].shape
        if self.kind == "time":
            return None, jnp.einsum("bnhtk->bnthk", groups[0])
        if self.kind == "window":
            return None, _from_blocks(groups, self.grid, frames).reshape(batch, -1, frames, heads, width)
        cls, patches = groups[0][:, None, :, :, 0], groups[0][:, :, :, 1:]
        match self.kind:
            case "frame":
                placed = jnp.einsum("bthnk->bnthk", patches)
            case "clip":
                placed = jnp.einsum("bghsk->bgshk", patches)
            case "row":
                placed = jnp.einsum("btyhxk->byxthk", patches.reshape(batch, frames, rows, heads, columns, width))
            case "column":
                placed = jnp.einsum("btxhyk->byxthk", patches.reshape(batch, frames, columns, heads, rows, width))
            case "lattice":
                placed = _from_lattice(patches, (frames, rows, columns))
        return cls, placed.reshape(batch, rows * columns, frames, heads, width)

    def masks(self) -> list[Mask | None]:
        """For each array of `gather`, False where a token is not to be seen, for (g, h, q, s); None where all are."""
        if self.kind == "window":
            return window_masks(self.grid, self.frames)
        mask = lattice_mask((self.frames, *self.grid)) if self.kind == "lattice" else None
        return [None if mask is None else np.pad(mask, ((0, 0), (1, 0)), constant_values=True)[:, None, None]]

    def probabilities(self, groups: list[Float[Array, "b g h _ _"]]) -> Float[Array, "..."]:
        """Lays out attention probabilities as the model returns them (see outputs.py)."""
        masks = self.masks()
        if self.kind == "window":
            placed = _from_blocks(list(map(_own_window, groups, masks)), self.grid, self.frames)
            batch, _, _, _, heads, size = placed.shape
            return jnp.einsum("byxthw->byxhtw", placed).reshape(batch, -1, heads, self.frames, size)
        (probabilities,), (mask,) = groups, masks
        if self.kind == "clip":
            return probabilities[:, 0]
        # Queries that only fill up a group attend to nothing.
        return probabilities if mask is None else probabilities * mask.mT

    def branches(self, batch: int) -> tuple[int, int, int, int]:
        """The shape of what stochastic depth drops by itself: what the reference's code folds into the batch axis."""
        num_patches = math.prod(self.grid)
        return {"time": (batch, num_patches, 1, 1), "frame": (batch, 1, self.frames, 1)}.get(
            self.kind, (batch, 1, 1, 1)
        )


def lattice_mask(sizes: tuple[int, int, int]) -> Bool[np.ndarray, "g m"] | None:
    """Which tokens of the lattice's groups there are; None where nothing is padded. Sizes: frames, rows, columns."""
    if all(size % _stride(size) == 0 for size in sizes):
        return None
    with jax.ensure_compile_time_eval():
        there = _to_lattice(jnp.ones((1, *sizes[1:], sizes[0], 1, 1), bool))
        return np.asarray(there)[0, :, :, 0, 0]


def _stride(size: int) -> int:
    """The lattice's stride along an axis of so many frames, rows or columns."""
    return min(2, size)


def _to_lattice(placed: Shaped[Array, "b rows columns t h k"]) -> Shaped[Array, "b g m h k"]:
    """Groups by the phase in frames, rows and columns, and in each frame by frame, row by row; padded with zeros."""
    batch, *sizes, heads, width = placed.shape
    padding = [(0, 0), *((0, -size % _stride(size)) for size in sizes), (0, 0), (0, 0)]
    split = [part for size in sizes for part in (-(-size // _stride(size)), _stride(size))]
    parts = jnp.pad(placed, padding).reshape(batch, *split, heads, width)
    return jnp.einsum("byixjtfhk->bfijtyxhk", parts).reshape(batch, math.prod(split[1::2]), -1, heads, width)


def _from_lattice(
    groups: Shaped[Array, "b g h m k"], sizes: tuple[int, int, int]
) -> Shaped[Array, "b rows columns t h k"]:
    """The inverse of `_to_lattice`, but for the order of axes. Sizes: frames, rows, columns."""
    batch, _, heads, _, width = groups.shape
    phases, counts = [_stride(size) for size in sizes], [-(-size // _stride(size)) for size in sizes]
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


def _from_blocks(
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


def _own_window(probabilities: Float[Array, "b 1 h q s"], mask: Mask | None) -> Float[Array, "b 1 h q window"]:
    """The probabilities of a block's queries on their own windows, without the rest of the rectangle."""
    if mask is None:
        return probabilities
    own = np.nonzero(mask)[1].reshape(1, 1, 1, len(mask), -1)
    return jnp.take_along_axis(probabilities, own, axis=4)
