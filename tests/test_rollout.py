"""Attention rollout: the row of CLS, layer by layer, against whole matrices in numpy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_rollout import cls_row, steps
from reference import ATTENTION_TYPES, run_flax
from tiny_flax import BATCH, COLUMNS, FRAMES, HEADS, ROWS, clips, tiny_flax

from timesformer_jax import rollout
from timesformer_jax.layerwise import Attention, LayerAttentions
from timesformer_jax.rollout import Row, attention_rollout, passed_on, roll_back

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def numpy_rollout(attention_type: str, outputs: Any, clip: int, residual: float, frames: int) -> Any:
    product: Any = None
    for layer, space in enumerate(outputs.attentions):
        time = outputs.temporal_attentions and outputs.temporal_attentions[layer]
        space = np.asarray(space)[clip]
        space = space.mean(axis=0) if attention_type == "joint_space_time" else space.mean(axis=1)
        for matrix in steps(attention_type, space, None if time is None else np.asarray(time)[clip].mean(axis=1)):
            mixed = (1 - residual) * matrix + residual * np.eye(len(matrix))
            if not matrix[0].any():  # CLS takes no part in the temporal step
                mixed[0, 0] = 1
            product = mixed if product is None else mixed @ product
    assert product.sum(axis=1) == pytest.approx(np.ones(len(product)))
    return cls_row(attention_type, product, frames)


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_the_row_of_cls_is_that_of_the_whole_matrices(attention_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "BLOCK", 400)  # some queries at a time, and a last block that is not full
    model, params = tiny_flax(attention_type)
    frames = 5  # another number than the config's
    outputs = run_flax(model, params, clips(frames))
    patches, own = attention_rollout(model, params, clips(frames), residual=0.3)
    assert patches.shape == (BATCH, frames, ROWS, COLUMNS)
    for clip in range(BATCH):
        expected_own, expected = numpy_rollout(attention_type, outputs, clip, 0.3, frames)
        np.testing.assert_allclose(patches[clip].reshape(frames, -1), expected, rtol=1e-11)
        assert own[clip] == pytest.approx(expected_own, rel=1e-11)
        assert np.ptp(expected) > 1e-3, "the weights must differ to show anything"
    np.testing.assert_allclose(patches.sum(axis=(1, 2, 3)) + own, 1, rtol=1e-12)


def test_without_attention_all_weight_stays_with_cls() -> None:
    model, params = tiny_flax("divided_space_time")
    patches, own = attention_rollout(model, params, clips(5), residual=1.0)
    np.testing.assert_array_equal(patches, 0)
    np.testing.assert_allclose(own, 1, rtol=1e-15)


def test_uniform_attention_spreads_evenly() -> None:
    """One layer whose queries are zero: worked out by hand."""
    shape = (1, FRAMES, HEADS, 1 + 8, 5)
    spatial = Attention(jnp.zeros(shape), jnp.ones(shape), jnp.ones(shape))
    temporal = Attention(*(jnp.zeros((1, 8, HEADS, FRAMES, 5)),) * 3)
    row = roll_back(Row(jnp.ones((1, 1)), jnp.zeros((1, 8, FRAMES))), LayerAttentions(spatial, temporal), 0.5)
    np.testing.assert_allclose(row.cls, 0.5 + 0.5 / 9)
    np.testing.assert_allclose(row.patches, 0.5 / 9 / FRAMES)  # even already, so that time changes nothing


def test_padding_queries_pass_nothing_on(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    attention = Attention(*(jnp.asarray(random.normal(size=(2, 3, 2, 7, 5))) for _ in range(3)))
    weights = jnp.asarray(random.uniform(size=(2, 3, 7)))
    whole = passed_on(weights, attention)
    matrix = np.asarray(attention.probabilities(slice(None))).mean(axis=2)
    np.testing.assert_allclose(whole, np.einsum("bgq,bgqs->bgs", weights, matrix), rtol=1e-12)
    monkeypatch.setattr(rollout, "BLOCK", 3 * 2 * 3 * 2 * 7)  # three queries at a time: 3 + 3 + 1
    np.testing.assert_allclose(passed_on(weights, attention), whole, rtol=1e-12)


def test_no_attention_matrix_is_ever_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiled step holds grows with the block, not with the square of the tokens."""
    monkeypatch.setattr(rollout, "BLOCK", 2**12)
    tokens = 1024
    shapes = [jax.ShapeDtypeStruct((1, 1, 2, tokens, 4), jnp.float32)] * 3
    weights = jax.ShapeDtypeStruct((1, 1, tokens), jnp.float32)
    compiled = jax.jit(lambda weights, arrays: passed_on(weights, Attention(*arrays))).lower(weights, shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < tokens * tokens
