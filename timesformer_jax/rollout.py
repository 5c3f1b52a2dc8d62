"""Attention rollout (Abnar & Zuidema 2020) through space and time: which tokens of the input CLS is made from.

The paper's figures of learned attention are made with it. A layer hands each token a mixture of itself (the residual
connection) and of the tokens that it attends to. With A the probabilities, averaged over the heads, and r the weight of
the residual, that is the matrix

    M = (1 - r) A + r I,    r = 0.5

whose rows sum to one, and so do those of the product of all layers, the last layer on the left. The row of CLS in it
says what share of CLS comes from each token of the input. For one layer, as matrices on the 1 + n t tokens of a clip:

joint       A is the attention matrix itself.
divided     the two steps are composed, M = M_space M_time, for the temporal step comes first.
            A_time: patch p of frame t attends to patch p of all frames; CLS takes no part: its row is that of I.
            A_space: patch p of frame t attends to CLS and to the patches of frame t. CLS is copied into each frame and
            attends to CLS and to the frame's patches there; the copies are averaged after, so that its row is the mean
            of theirs: a[t, 0, p] / frames on patch p of frame t, and on CLS the mean over t of a[t, 0, 0].
space-only  each frame has a CLS of its own, and A is a block for each frame. The frames are averaged in the end, so
            that the row of the clip is the mean of the frames' rows.

No such matrix is ever made. A row vector is taken from the last layer to the first, and each attention matrix is made
in blocks of queries, used and let go: memory grows with the tokens, not with their square.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .checkpoints.mapping import Params
from .layerwise import Attention, HostTokens, LayerAttentions, Model, grid_of, run_layer, tokens_before_layers

BLOCK = 2**24
"""Probabilities that are held at a time, in numbers."""


@flax.struct.dataclass
class Row:
    """How much of CLS comes from each token of a clip.

    Attributes:
        cls: the weight of CLS itself; with space-only attention one for each frame's.
        patches: the weights of the patches; joint attention holds all its patches in a single frame.
    """

    cls: Float[Array, "b t_cls"]
    patches: Float[Array, "b n t"]


def attention_rollout(
    model: Model,
    params: Params,
    pixel_values: Float[Array | np.ndarray, "b t height width c"],
    *,
    residual: float = 0.5,
) -> tuple[Float[np.ndarray, "b t rows columns"], Float[np.ndarray, " b"]]:
    """What share of CLS after the last layer comes from each patch of each frame.

    Args:
        model: of any attention type.
        params: its parameters.
        pixel_values: normalised clips, as for the model.
        residual: the weight of a token itself in each step; 1 leaves attention out.

    Returns:
        The patches' shares, and that of CLS itself; of each clip, the sum of all is one.
    """
    entering = tokens_before_layers(model, params, pixel_values)
    row = last_row(entering.pop())
    while entering:
        index = len(entering) - 1
        _, attentions = run_layer(model, params, index, entering.pop())
        row = roll_back(row, attentions, residual)
    return patch_map(model, pixel_values, row), np.asarray(row.cls.sum(axis=1))


def last_row(tokens: HostTokens) -> Row:
    """All weight on CLS: spread over the frames where each has its own."""
    cls, patches = tokens
    dtype = jnp.promote_types(patches.dtype, jnp.float32)
    return Row(jnp.full(cls.shape[:3:2], 1 / cls.shape[2], dtype), jnp.zeros(patches.shape[:3], dtype))


def patch_map(model: Model, pixel_values: Any, row: Row) -> Float[np.ndarray, "b t rows columns"]:
    """The weights of the patches, laid out as the frames are."""
    frames, rows, columns = grid_of(model, pixel_values)
    # Joint attention's single frame holds the patches patch by patch, frame by frame.
    return np.asarray(row.patches).reshape(-1, rows, columns, frames).transpose(0, 3, 1, 2)


@jax.jit
def roll_back(row: Row, attentions: LayerAttentions, residual: Array | float = 0.5) -> Row:
    """The row of CLS one layer further down: row @ M_space @ M_time."""
    row = _mixed(row, through_space(row, attentions.spatial, shared=1 / attentions.spatial.query.shape[1]), residual)
    if attentions.temporal is None:
        return row
    return Row(row.cls, _mixed(row.patches, passed_on(row.patches, attentions.temporal), residual))


def through_space(row: Row, attention: Attention, shared: float) -> Row:
    """The row after the spatial attention alone: row @ A_space.

    Args:
        row: before.
        attention: over the tokens of each frame.
        shared: how much of the weight of the clip's CLS each frame's copy takes over.
    """
    frames = attention.query.shape[1]
    copies = row.cls if row.cls.shape[1] == frames else jnp.repeat(row.cls * shared, frames, axis=1)
    passed = passed_on(jnp.concatenate([copies[..., None], row.patches.mT], axis=-1), attention)
    cls = passed[..., 0]
    return Row(cls if row.cls.shape[1] == frames else cls.sum(axis=1, keepdims=True), passed[..., 1:].mT)


def passed_on(weights: Float[Array, "b groups s"], attention: Attention) -> Float[Array, "b groups s"]:
    """What tokens of these weights pass on to those that they attend to: weights @ A, in blocks of queries.

    A is the mean over the heads of the probabilities; where there is a gradient, of the positive part of the
    probabilities times their gradients.
    """
    tokens = attention.query.shape[-2]
    block = max(1, min(tokens, BLOCK // attention.query[..., 0].size))
    num_blocks = -(-tokens // block)

    def in_blocks(array: Array, axis: int) -> Array:
        # Queries that only fill up the last block have no weight.
        axis %= array.ndim
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, num_blocks * block - tokens)
        shape = (*array.shape[:axis], num_blocks, block, *array.shape[axis + 1 :])
        return jnp.moveaxis(jnp.pad(array, padding).reshape(shape), axis, 0)

    def step(total: Array, part: Any) -> tuple[Array, None]:
        weight, query, gradient = part
        matrix = attention.replace(query=query).probabilities(slice(None))  # pyright: ignore[reportAttributeAccessIssue]
        if gradient is not None:  # attended = A value, so that the gradient of A is that of attended times valueᵀ
            slope = jnp.matmul(gradient, attention.value.mT, preferred_element_type=matrix.dtype)
            matrix = jnp.maximum(matrix * slope, 0)
        return total + jnp.einsum("bgq,bghqs->bgs", weight, matrix) / matrix.shape[2], None

    gradient = None if attention.gradient is None else in_blocks(attention.gradient, -2)
    parts = (in_blocks(weights, -1), in_blocks(attention.query, -2), gradient)
    return jax.lax.scan(step, jnp.zeros_like(weights), parts)[0]


def _mixed(row: Any, passed: Any, residual: Array | float) -> Any:
    return jax.tree.map(functools.partial(_mix, residual), row, passed)


def _mix(residual: Array | float, own: Array, passed: Array) -> Array:
    return residual * own + (1 - residual) * passed
