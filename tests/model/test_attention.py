"""The pure functions of attention.py against loops and PyTorch. (Stochastic depth: test_stochastic.py.)"""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from pytorch import functional, torch
from reference import assert_close

from timesformer_jax.model.attention import grouped_attention, softmax_attention
from timesformer_jax.model.token_groups import TokenGroups

BATCH, TOKENS, FRAMES, HEADS, SIZE = 2, 7, 5, 3, 8


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.usefixtures("x64")
def test_softmax_attention_equals_pytorch():
    # More keys than queries, so that no axis can be taken for another.
    query, key, value = (
        random(BATCH, HEADS, 4, SIZE),
        random(BATCH, HEADS, 6, SIZE, seed=1),
        random(BATCH, HEADS, 6, SIZE, seed=2),
    )
    values, probabilities = softmax_attention(*map(jnp.asarray, (query, key, value)))
    expected = functional.scaled_dot_product_attention(*map(torch.from_numpy, (query, key, value)))
    assert_close(values, expected, 1e-14, "values")  # sums of six terms
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-14)
    assert_close(probabilities @ value, expected, 1e-14, "probabilities times values")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["time", "frame"])
def test_tokens_attend_within_their_group(kind):
    """Temporal attention: one patch over the frames; spatial attention: the tokens of one frame, CLS first."""
    qkv = random(BATCH, TOKENS, FRAMES, 3, HEADS, SIZE)
    temporal = kind == "time"
    cls, patches = (None, qkv) if temporal else (jnp.asarray(qkv[:, :1]), qkv[:, 1:])
    groups = TokenGroups(kind, (1, patches.shape[1]), FRAMES)
    cls_values, values, probabilities = grouped_attention(groups, cls, jnp.asarray(patches))
    values = values if temporal else jnp.concatenate([cls_values, values], axis=1)
    parallel, attended = (TOKENS, FRAMES) if temporal else (FRAMES, TOKENS)
    assert values.shape == (BATCH, TOKENS, FRAMES, HEADS, SIZE)
    assert probabilities.shape == (BATCH, parallel, HEADS, attended, attended)
    for b in range(BATCH):
        for group in range(parallel):
            members = qkv[b, group] if temporal else qkv[b, :, group]
            result = values[b, group] if temporal else values[b, :, group]
            for head in range(HEADS):
                query, key, value = (members[:, i, head] for i in range(3))
                weights = np.exp(query @ key.T / np.sqrt(SIZE))
                weights /= weights.sum(1, keepdims=True)
                assert_close(probabilities[b, group, head], weights, 1e-14, f"probabilities {b, group, head}")
                assert_close(result[:, head], weights @ value, 1e-14, f"values {b, group, head}")


def test_dropout_acts_on_the_probabilities_before_the_values():
    query, key, value = (jnp.asarray(random(1, 4, SIZE, seed=i), jnp.float32) for i in range(3))
    values, probabilities = softmax_attention(query, key, value, drop=lambda probabilities: 2 * probabilities)
    plain_values, plain = softmax_attention(query, key, value)
    np.testing.assert_array_equal(probabilities, 2 * plain)
    # Divided before the product here, after it there: a few roundings of float32 between them.
    np.testing.assert_allclose(values, 2 * plain_values, rtol=1e-6, atol=1e-6)


def test_softmax_is_float32_in_bfloat16():
    query, key, value = (jnp.asarray(random(1, 200, SIZE, seed=i), jnp.bfloat16) for i in range(3))
    values, probabilities = softmax_attention(query, key, value)
    assert (values.dtype, probabilities.dtype) == (jnp.bfloat16, jnp.bfloat16)
    exact = softmax_attention(*(x.astype(jnp.float32) for x in (query, key, value)))[1]
    # Each probability is rounded once, at the end: half a unit in the last of 8 bits.
    np.testing.assert_allclose(np.asarray(probabilities, np.float32), exact, rtol=2**-8)


def test_large_logits_do_not_overflow():
    query = jnp.full((1, 2, SIZE), 1e4, jnp.float32)
    values, probabilities = softmax_attention(query, query * jnp.asarray([[1], [-1]]), jnp.ones((1, 2, SIZE)))
    np.testing.assert_array_equal(probabilities, [[[1, 0], [1, 0]]])
    np.testing.assert_array_equal(values, 1)


def test_shapes_are_checked_in_tests():
    """The import hook of conftest.py is at work."""
    with pytest.raises(jaxtyping.TypeCheckError):
        grouped_attention(TokenGroups("time", (1, 7), 5), None, jnp.zeros((2, 7, 5, 3, 24)))


def test_gradient_of_probabilities_that_vanish_is_finite():
    qkv = jnp.asarray(100 * random(1, 4, 3, 3, HEADS, SIZE), jnp.float32)
    gradient = jax.grad(lambda qkv: grouped_attention(TokenGroups("time", (1, 4), 3), None, qkv)[1].sum())(qkv)
    assert np.isfinite(gradient).all()
