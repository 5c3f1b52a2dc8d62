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

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checkpoints.mapping import Params
from ..config import TimesformerConfig
from ..model.embeddings import patch_grid
from ..model.token_groups import Grid, TokenGroups
from ..schemes import AttentionStep, attention_steps
from .layer_attentions import (
    AttentionInputs,
    HostTokens,
    LayerAttentions,
    Model,
    grid_of,
    run_layer,
    tokens_before_layers,
)

BLOCK = 2**24
"""Probabilities that are held at a time, in numbers."""


@flax.struct.dataclass
class Shares:
    """How much of CLS comes from each token of a clip: a row vector over the clip's tokens.

    Attributes:
        cls: the share of CLS itself; with space-only attention one for each frame's.
        patches: the shares of the patches.
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
    shares, grid = all_on_cls(entering.pop()), patch_grid(pixel_values, model.config)
    while entering:
        index = len(entering) - 1
        _, attentions = run_layer(model, params, index, entering.pop(), grid)
        shares = roll_back(model.config, grid, shares, attentions, residual)
    return patch_map(model, pixel_values, shares), np.asarray(shares.cls.sum(axis=1))


def all_on_cls(tokens: HostTokens) -> Shares:
    """All shares on CLS, spread over the frames where each has its own."""
    cls, patches = tokens
    dtype = jnp.promote_types(patches.dtype, jnp.float32)
    return Shares(jnp.full(cls.shape[:3:2], 1 / cls.shape[2], dtype), jnp.zeros(patches.shape[:3], dtype))


def patch_map(model: Model, pixel_values: Any, shares: Shares) -> Float[np.ndarray, "b t rows columns"]:
    """The shares of the patches, laid out as the frames are."""
    frames, rows, columns = grid_of(model, pixel_values)
    return np.asarray(shares.patches).reshape(-1, rows, columns, frames).transpose(0, 3, 1, 2)


@functools.partial(jax.jit, static_argnums=(0, 1))
def roll_back(
    config: TimesformerConfig, grid: Grid, shares: Shares, attentions: LayerAttentions, residual: Array | float = 0.5
) -> Shares:
    """The shares one layer further down: shares @ M_last ... @ M_first."""
    if config.attention_order == "parallel":
        # CLS goes through space alone, and so with twice the weight.
        doubled = Shares(2 * shares.cls, shares.patches)
        passed = [through_step(step, grid, doubled, attentions) for step in attention_steps(config)]
        mean = jax.tree.map(lambda *parts: sum(parts) / 2, *passed)
        return jax.tree.map(functools.partial(_mix, residual), shares, mean)
    for step in reversed(attention_steps(config)):
        passed = through_step(step, grid, shares, attentions)
        cls = _mix(residual, shares.cls, passed.cls) if step.with_cls else shares.cls
        shares = Shares(cls, _mix(residual, shares.patches, passed.patches))
    return shares


def through_step(
    step: AttentionStep, grid: Grid, shares: Shares, attentions: LayerAttentions, *, averaged: bool = True
) -> Shares:
    """The shares after the attention of one step alone: shares @ A. Where CLS takes no part, nothing comes to it.

    The attention of a step, linear in what it attends to, is: tokens are gathered into groups, each group's matrix is
    applied, and tokens are scattered to their places again. A row vector takes the same way back, by the transposes.

    Args:
        step: of a layer.
        grid: rows and columns of patches.
        shares: before.
        attentions: of the layer.
        averaged: whether the copies of the clip's CLS in each group (frame, row, ...) share its weight, or each has it.
    """
    groups = TokenGroups(step.groups, grid, shares.patches.shape[2])
    found = attentions[step.attention]
    own = shares.cls.shape[1] > 1  # each frame has a CLS of its own

    def scatter(pieces: list[Array]) -> tuple[Array, Array]:
        cls, patches = groups.scatter(pieces)
        if cls is None:
            return jnp.zeros_like(shares.cls), patches[..., 0, 0]
        copies = cls[:, 0, :, 0, 0]
        combined = copies if own else (copies.mean if averaged else copies.sum)(axis=1, keepdims=True)
        return combined, patches[..., 0, 0]

    def gather(cls: Array, patches: Array) -> list[Array]:
        return groups.gather(cls[:, None, :, None, None], patches[..., None, None])

    def one_head(attention: AttentionInputs, tokens: Array) -> jax.ShapeDtypeStruct:
        batch, count = tokens.shape[:2]
        return jax.ShapeDtypeStruct((batch, count, 1, tokens.shape[3], 1), shares.patches.dtype)

    (pieces,) = jax.linear_transpose(scatter, [one_head(a, a.query) for a in found])((shares.cls, shares.patches))
    passed = [passed_on(w[:, :, 0, :, 0], a)[:, :, None, :, None] for w, a in zip(pieces, found, strict=True)]
    return Shares(*jax.linear_transpose(gather, shares.cls, shares.patches)(passed))


def passed_on(weights: Float[Array, "b groups q"], attention: AttentionInputs) -> Float[Array, "b groups s"]:
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
        matrix = AttentionInputs(query, attention.key, attention.value, mask=mask).probabilities()
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
