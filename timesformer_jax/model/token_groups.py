"""Which tokens see each other in an attention step: groups of a clip's tokens, and the way there and back.

The patches of a clip are (b, n, t, ...): n = rows x columns places, row by row, in t frames. Letters are those of
modeling.py; g counts groups, m the patches of a group. Where CLS takes part, each group gets a copy of it in front.

time          A patch sees its own place in all frames (equation 11; as in the paper's code, without CLS): g is a place.
frame         A token sees its frame (equation 6): g is the frame. With space-only attention each frame has a CLS of its
              own, in divided attention a copy of the clip's.
clip          A token sees the whole clip (equation 5): there is one group.
row, column   A patch sees its row (or column) of its frame: g is frame and row (or frame and column).
lattice       A patch sees every second patch in each direction (see sparse_groups.py): there are eight groups.
window        A patch sees a neighbourhood in all frames (see sparse_groups.py): blocks of queries and what they see.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ..schemes import GroupKind
from .sparse_groups import (
    Grid,
    Mask,
    from_blocks,
    from_lattice,
    lattice_mask,
    own_window,
    to_lattice,
    window_blocks,
    window_masks,
)


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
                groups = to_lattice(placed)
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
            return None, from_blocks(groups, self.grid, frames).reshape(batch, -1, frames, heads, width)
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
                placed = from_lattice(patches, (frames, rows, columns))
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
            placed = from_blocks(list(map(own_window, groups, masks)), self.grid, self.frames)
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
