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
others      axial and sparse local-global attention are composed of their steps as divided attention is, with rows,
            columns or lattice in place of frames, and windows in place of a patch's other frames.
parallel    divided attention whose steps read the same tokens has M = (1 - r) (A_space + A_time) / 2 + r I; the row of
            CLS, which has no part in A_time, is that of (1 - r) A_space + r I.

No such matrix is ever made. A row vector is taken from the last layer to the first, and each attention matrix is made
in blocks of queries, used and let go: memory grows with the tokens, not with their square.
"""

import dataclasses
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checkpoints.mapping import Params
from ..model.embeddings import patch_grid
from ..model.token_groups import Grid, from_windows, group, ungroup, window_pieces
from ..schemes import AttentionStep, attention_steps
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


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the attentions of a model's layers are over.

    Attributes:
        steps: of each layer, the first one first.
        parallel: whether all steps read the same tokens.
        grid: rows and columns of patches.
    """

    steps: tuple[Step, ...]
    parallel: bool
    grid: Grid


def layout_of(model: Model, pixel_values: Float[Array | np.ndarray, "b t height width c"]) -> Layout:
    """Of a model, for clips of this size."""
    config = model.config
    return Layout(attention_steps(config), config.attention_order == "parallel", patch_grid(pixel_values, config))


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
    row, layout = last_row(entering.pop()), layout_of(model, pixel_values)
    while entering:
        index = len(entering) - 1
        _, attentions = run_layer(model, params, index, entering.pop(), layout.grid)
        row = roll_back(layout, row, attentions, residual)
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


@partial(jax.jit, static_argnums=0)
def roll_back(layout: Layout, row: Row, attentions: LayerAttentions, residual: Array | float = 0.5) -> Row:
    """The row of CLS one layer further down: row @ M_last ... @ M_first."""
    if layout.parallel:
        (over_time,) = (step for step in layout.steps if not step.with_cls)
        (over_space,) = (step for step in layout.steps if step.with_cls)
        time = through_step(layout, over_time, row, attentions, averaged=True)
        # CLS goes through space alone, and so with twice the weight.
        space = through_step(layout, over_space, Row(2 * row.cls, row.patches), attentions, averaged=True)
        patches = (time.patches + space.patches) / 2
        return Row(_mix(residual, row.cls, space.cls / 2), _mix(residual, row.patches, patches))
    for step in reversed(layout.steps):
        passed = through_step(layout, step, row, attentions, averaged=True)
        cls = _mix(residual, row.cls, passed.cls) if step.with_cls else row.cls
        row = Row(cls, _mix(residual, row.patches, passed.patches))
    return row


def through_step(layout: Layout, step: Step, row: Row, attentions: LayerAttentions, *, averaged: bool) -> Row:
    """The row after the attention of one step alone: row @ A. Where CLS takes no part, nothing comes to it.

    Args:
        layout: of the model.
        step: which one.
        row: before.
        attentions: of the layer.
        averaged: whether the copies of the clip's CLS in each group (frame, row, ...) share its weight, or each has it.
    """
    found, grid, frames = attentions[step.attention], layout.grid, row.patches.shape[2]
    if step.reach == "window":
        weights = window_pieces(row.patches, grid, keys=False)
        pieces = [passed_on(w[:, None], attention)[:, 0] for w, attention in zip(weights, found, strict=True)]
        return Row(jnp.zeros_like(row.cls), from_windows(pieces, grid, frames))
    (attention,) = found
    if step.reach == "time":
        return Row(jnp.zeros_like(row.cls), passed_on(row.patches, attention))
    patches = row.patches.mT if step.reach == "frame" else group(row.patches, step.reach, grid)
    groups = patches.shape[1]
    own = row.cls.shape[1] == groups  # with space-only attention
    copies = row.cls if own else jnp.repeat(row.cls / groups if averaged else row.cls, groups, axis=1)
    passed = passed_on(jnp.concatenate([copies[..., None], patches], axis=-1), attention)
    cls, patches = passed[..., 0], passed[..., 1:]
    patches = patches.mT if step.reach == "frame" else ungroup(patches, step.reach, grid, frames)
    return Row(cls if own else cls.sum(axis=1, keepdims=True), patches)


def passed_on(weights: Float[Array, "b groups q"], attention: Attention) -> Float[Array, "b groups s"]:
    """What tokens of these weights pass on to those that they attend to: weights @ A, in blocks of queries.

    A is the mean over the heads of the probabilities; where there is a gradient, of the positive part of the
    probabilities times their gradients.
    """
    tokens = attention.query.shape[-2]
    block = max(1, min(tokens, BLOCK // attention.query[..., 0].size))
    num_blocks = -(-tokens // block)

    def in_blocks(array: Array, axis: int, fill: Any = 0) -> Array:
        # Queries that only fill up the last block have no weight.
        axis %= array.ndim
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, num_blocks * block - tokens)
        shape = (*array.shape[:axis], num_blocks, block, *array.shape[axis + 1 :])
        return jnp.moveaxis(jnp.pad(array, padding, constant_values=fill).reshape(shape), axis, 0)

    def step(total: Array, part: Any) -> tuple[Array, None]:
        weight, query, gradient, mask = part
        matrix = Attention(query, attention.key, attention.value, mask=mask).probabilities(slice(None))
        if gradient is not None:  # attended = A value, so that the gradient of A is that of attended times valueᵀ
            slope = jnp.matmul(gradient, attention.value.mT, preferred_element_type=matrix.dtype)
            matrix = jnp.maximum(matrix * slope, 0)
        return total + jnp.einsum("bgq,bghqs->bgs", weight, matrix) / matrix.shape[2], None

    gradient = None if attention.gradient is None else in_blocks(attention.gradient, -2)
    mask = None if attention.mask is None else in_blocks(attention.mask, -2, fill=True)
    parts = (in_blocks(weights, -1), in_blocks(attention.query, -2), gradient, mask)
    total = jnp.zeros((*weights.shape[:2], attention.key.shape[-2]), weights.dtype)
    return jax.lax.scan(step, total, parts)[0]


def _mix(residual: Array | float, own: Array, passed: Array) -> Array:
    return residual * own + (1 - residual) * passed
