"""Attention rollout: the row of CLS, layer by layer, against whole matrices in numpy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy_timesformer
import pytest
from numpy_rollout import cls_row, steps
from reference import ATTENTION_TYPES, run_flax, torch_names
from tiny_flax import BATCH, COLUMNS, FRAMES, HEADS, ROWS, clips, tiny_flax

from timesformer_jax import TimesformerConfig
from timesformer_jax.interpret import rollout
from timesformer_jax.interpret.layer_attentions import AttentionInputs
from timesformer_jax.interpret.rollout import Shares, attention_rollout, passed_on, roll_back

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


@pytest.mark.parametrize(
    ("attention_type", "order"),
    [
        ("axial", "time_space"),
        ("sparse_local_global", "time_space"),
        ("divided_space_time", "space_time"),
        ("divided_space_time", "parallel"),
    ],
)
def test_other_schemes_and_orders(attention_type: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against whole matrices on all tokens, from a rewrite in numpy; an odd number of frames."""
    monkeypatch.setattr(rollout, "BLOCK", 400)
    model, params = tiny_flax(attention_type, attention_order=order)
    frames, residual = 3, 0.3
    expected = numpy_timesformer.run(torch_names(params, model.config), model.config, clips(frames))
    patches, own = attention_rollout(model, params, clips(frames), residual=residual)
    for clip in range(BATCH):
        product: Any = np.eye(1 + ROWS * COLUMNS * frames)
        for layer in range(model.config.num_hidden_layers):
            if attention_type == "divided_space_time":
                space, time = (
                    np.asarray(found[layer])[clip].mean(axis=1)
                    for found in (expected.attentions, expected.temporal_attentions)
                )
                over_time, over_space = steps(attention_type, space, time)
                both = (over_time + over_space) / 2
                both[0] = over_space[0]
                matrices = [over_space, over_time] if order == "space_time" else [both]
            else:
                matrices = [layers[layer][clip].mean(axis=0) for layers in expected.whole.values()]
            for matrix in matrices:
                mixed = (1 - residual) * matrix + residual * np.eye(len(matrix))
                if not matrix[0].any():  # CLS takes no part
                    mixed[0, 0] = 1
                product = mixed @ product
        own_expected, row = cls_row(attention_type, product, frames)
        np.testing.assert_allclose(patches[clip].reshape(frames, -1), row, rtol=1e-11)
        assert own[clip] == pytest.approx(own_expected, rel=1e-11)


def test_without_attention_all_weight_stays_with_cls() -> None:
    model, params = tiny_flax("divided_space_time")
    patches, own = attention_rollout(model, params, clips(5), residual=1.0)
    np.testing.assert_array_equal(patches, 0)
    np.testing.assert_allclose(own, 1, rtol=1e-15)


def test_uniform_attention_spreads_evenly() -> None:
    """One layer whose queries are zero: worked out by hand."""
    shape = (1, FRAMES, HEADS, 1 + 8, 5)
    spatial = AttentionInputs(jnp.zeros(shape), jnp.ones(shape), jnp.ones(shape))
    temporal = AttentionInputs(*(jnp.zeros((1, 8, HEADS, FRAMES, 5)),) * 3)
    attentions = {"temporal_attention": (temporal,), "attention": (spatial,)}
    shares = Shares(jnp.ones((1, 1)), jnp.zeros((1, 8, FRAMES)))
    row = roll_back(TimesformerConfig(num_hidden_layers=1), (2, 4), shares, attentions, 0.5)
    np.testing.assert_allclose(row.cls, 0.5 + 0.5 / 9)
    np.testing.assert_allclose(row.patches, 0.5 / 9 / FRAMES)  # even already, so that time changes nothing


def test_padding_queries_pass_nothing_on(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    attention = AttentionInputs(*(jnp.asarray(random.normal(size=(2, 3, 2, 7, 5))) for _ in range(3)))
    weights = jnp.asarray(random.uniform(size=(2, 3, 7)))
    whole = passed_on(weights, attention)
    matrix = np.asarray(attention.probabilities()).mean(axis=2)
    np.testing.assert_allclose(whole, np.einsum("bgq,bgqs->bgs", weights, matrix), rtol=1e-12)
    monkeypatch.setattr(rollout, "BLOCK", 3 * 2 * 3 * 2 * 7)  # three queries at a time: 3 + 3 + 1
    np.testing.assert_allclose(passed_on(weights, attention), whole, rtol=1e-12)


def test_no_attention_matrix_is_ever_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiled step holds grows with the block, not with the square of the tokens."""
    monkeypatch.setattr(rollout, "BLOCK", 2**12)
    tokens = 1024
    shapes = [jax.ShapeDtypeStruct((1, 1, 2, tokens, 4), jnp.float32)] * 3
    weights = jax.ShapeDtypeStruct((1, 1, tokens), jnp.float32)
    compiled = (
        jax.jit(lambda weights, arrays: passed_on(weights, AttentionInputs(*arrays))).lower(weights, shapes).compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < tokens * tokens
