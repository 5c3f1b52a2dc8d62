"""Attention over rows, columns, lattice and windows, as pure functions; what these are is in neighbourhoods.py."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..config import AttentionImplementation
from ..schemes import Reach
from .attention import DropProbabilities, Precision, attend, softmax_attention
from .token_groups import Grid, padding_mask, query_blocks, ungroup, window_masks, with_copies


def grouped_attention(
    cls: Float[Array, "b 1 1 3 h k"],
    patches: Float[Array, "b n t 3 h k"],
    reach: Reach,
    grid: Grid,
    *,
    scale: float | None = None,
    drop: DropProbabilities | None = None,
    precision: Precision = None,
    implementation: AttentionImplementation = "plain",
) -> tuple[Float[Array, "b 1 1 h k"], Float[Array, "b n t h k"], Float[Array, "b g h s s"] | None]:
    """Each patch attends to CLS and to its group; CLS to each group and to itself, and gets the mean.

    Args:
        cls: query, key and value of CLS.
        patches: those of the patches.
        reach: what makes a group: "row", "column" or "lattice".
        grid: rows and columns of patches.
        scale: see `attention.attend`, and so are the others.
        drop: see there.
        precision: see there.
        implementation: see there.

    Returns:
        What CLS and the patches get; and, where they were held, the probabilities in each group, CLS first (zero where
        a group is padded).
    """
    query, key, value = with_copies(cls, patches, reach, grid)
    mask = padding_mask(reach, grid, patches.shape[2])
    values, probabilities = attend(
        query,
        key,
        value,
        scale=scale,
        mask=None if mask is None else mask[:, None, None],
        drop=drop,
        precision=precision,
        implementation=implementation,
    )
    if mask is not None and probabilities is not None:
        probabilities = probabilities * mask[:, None, :, None]
    values = jnp.einsum("bghsk->bgshk", values)
    cls_values = values[:, :, :1].mean(axis=1, keepdims=True)
    return cls_values, ungroup(values[:, :, 1:], reach, grid, patches.shape[2]), probabilities


def grouped_cls_attention(
    query: Float[Array, "b 1 1 1 h k"],
    cls: Float[Array, "b 1 1 2 h k"],
    patches: Float[Array, "b n t 2 h k"],
    reach: Reach,
    grid: Grid,
    *,
    scale: float | None = None,
    precision: Precision = None,
) -> Float[Array, "b 1 1 h k"]:
    """`grouped_attention` of CLS alone: a row of logits a group.

    Args:
        query: of CLS.
        cls: its key and value.
        patches: those of the patches.
        reach: what makes a group: "row", "column" or "lattice".
        grid: rows and columns of patches.
        scale: see `attention.attend`.
        precision: see there.
    """
    key, value = with_copies(cls, patches, reach, grid)
    mask = padding_mask(reach, grid, patches.shape[2])
    values, _ = softmax_attention(
        jnp.broadcast_to(jnp.einsum("bstchk->bthsk", query), (*key.shape[:-2], 1, key.shape[-1])),
        key,
        value,
        scale=scale,
        mask=None if mask is None else mask[:, None, None],
        precision=precision,
    )
    return jnp.einsum("bghsk->bgshk", values).mean(axis=1, keepdims=True)


def window_attention(
    qkv: Float[Array, "b n t 3 h k"],
    grid: Grid,
    *,
    scale: float | None = None,
    drop: DropProbabilities | None = None,
    precision: Precision = None,
    implementation: AttentionImplementation = "plain",
    needs_probabilities: bool = False,
) -> tuple[Float[Array, "b n t h k"], Float[Array, "b n h t s"] | None]:
    """Each patch attends to all frames of the window around it.

    Args:
        qkv: queries, keys and values of the patches.
        grid: rows and columns of patches.
        scale: see `attention.attend`, and so are the next three.
        drop: see there.
        precision: see there.
        implementation: see there.
        needs_probabilities: return the probabilities.

    Returns:
        What the patches get; and, where asked for, each patch's probabilities over its window: row by row of the
        window, column by column, frame by frame.
    """
    batch, _, frames, _, heads, _ = qkv.shape
    placed = jnp.einsum("brxtchk->cbhrxtk", qkv.reshape(batch, *grid, *qkv.shape[2:]))
    masks = iter(window_masks(grid, frames))
    bands: list[Array] = []
    probability_bands: list[Array] = []
    for rows, key_rows in query_blocks(grid[0]):
        pieces: list[Array] = []
        probability_pieces: list[Array] = []
        for columns, key_columns in query_blocks(grid[1]):
            query = placed[0, :, :, rows, columns]
            key, value = placed[1:, :, :, key_rows, key_columns]
            mask = next(masks)
            values, probabilities = attend(
                *(array.reshape(batch, 1, heads, -1, array.shape[-1]) for array in (query, key, value)),
                scale=scale,
                mask=mask,
                drop=drop,
                precision=precision,
                implementation=implementation,
            )
            pieces.append(values.reshape(query.shape))
            if needs_probabilities:
                assert probabilities is not None
                own = _of_windows(probabilities[:, 0], mask, frames)
                probability_pieces.append(own.reshape(batch, *query.shape[2:4], *own.shape[2:]))
        bands.append(jnp.concatenate(pieces, axis=3))
        if needs_probabilities:
            probability_bands.append(jnp.concatenate(probability_pieces, axis=2))
    values = jnp.einsum("bhrxtk->brxthk", jnp.concatenate(bands, axis=2))
    probabilities = None
    if needs_probabilities:
        placed = jnp.concatenate(probability_bands, axis=1)
        probabilities = placed.reshape(batch, -1, *placed.shape[3:])
    return values.reshape(batch, -1, *values.shape[3:]), probabilities


def _of_windows(
    probabilities: Float[Array, "b h q s"], mask: Bool[np.ndarray, "q s"] | None, frames: int
) -> Float[Array, "b places h t window"]:
    """The probabilities of a block's queries on their own windows, without the rest of the rectangle."""
    batch, heads, queries, _ = probabilities.shape
    if mask is not None:
        own = np.nonzero(mask)[1].reshape(1, 1, queries, -1)
        probabilities = jnp.take_along_axis(probabilities, own, axis=3)
    split = probabilities.reshape(batch, heads, queries // frames, frames, -1)
    return jnp.einsum("bhpts->bphts", split)
