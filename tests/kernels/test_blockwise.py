"""Attention in blocks against the whole matrix, and how an implementation is chosen."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import QUICK_COMPILE, assert_close, clip, tiny_reference, to_flax

from timesformer_jax.kernels.blockwise import attention_in_blocks, blockwise_attention
from timesformer_jax.kernels.choice import choose_implementation
from timesformer_jax.model.attention import softmax_attention
from timesformer_jax.model.implementations import attend

QUERIES, KEYS, SIZE = 13, 17, 8


def arrays(*, dtype: str = "float64") -> list[jax.Array]:
    """Queries, keys, values and a gradient of the result; logits up to some dozens, rising along the keys."""
    rng = np.random.default_rng(0)
    query, key, value, gradient = (rng.normal(size=(2, 3, rows, SIZE)) for rows in (QUERIES, KEYS, KEYS, QUERIES))
    return [jnp.asarray(array, dtype) for array in (4 * query, np.sort(key, axis=-2), value, gradient)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("blocks", [(4, 4), (13, 5), (4, 64)])  # with a rest on both sides, on one, and all keys in one
def test_values_and_gradients_equal_the_whole_matrix(blocks):
    query, key, value, gradient = arrays()

    def whole(*inputs: jax.Array) -> jax.Array:
        return softmax_attention(*inputs, scale=0.4)[0]

    def in_blocks(*inputs: jax.Array) -> jax.Array:
        return blockwise_attention(*inputs, 0.4, None, blocks)

    expected, pull_back = jax.vjp(whole, query, key, value)
    actual, pull_blocks_back = jax.vjp(in_blocks, query, key, value)
    assert_close(actual, expected, 1e-14, "values")  # float64, sums of some dozen terms
    for name, ours, theirs in zip("qkv", pull_blocks_back(gradient), pull_back(gradient), strict=True):
        assert_close(ours, theirs, 1e-13, f"gradient of {name}")


def test_memory_grows_with_the_tokens():
    """Twice the tokens, about twice the temporary memory, where the whole matrix needs four times as much."""

    def temporaries(tokens: int) -> int:
        rows = jax.ShapeDtypeStruct((1, 2, tokens, SIZE), jnp.float32)

        def loss(*inputs: jax.Array) -> jax.Array:
            return blockwise_attention(*inputs, 1.0, None, (64, 64)).sum()

        step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), compiler_options=QUICK_COMPILE)
        return step.lower(rows, rows, rows).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(4096) < 2.5 * temporaries(2048)
    assert temporaries(4096) < 4096**2 * 4 / 4  # a quarter of one head's logits


@pytest.mark.gpu
def test_types_are_kept_and_sums_are_float32():
    query, key, value, _ = arrays(dtype="bfloat16")
    result = jax.jit(lambda *rows: blockwise_attention(*rows, 0.4, None, (4, 4)))(query, key, value)
    assert result.dtype == jnp.bfloat16
    expected = softmax_attention(*(x.astype(jnp.float32) for x in (query, key, value)), scale=0.4)[0]
    assert_close(result.astype(jnp.float32), expected, 2**-7, "values")  # weights and result are rounded to 8 bits


@pytest.mark.usefixtures("x64")
def test_the_model_gives_the_same_in_blocks():
    reference = tiny_reference(attention_type="joint_space_time", num_hidden_layers=1)
    model, params = to_flax(reference)
    assert model.attention_implementation == "auto"
    pixel_values = clip(reference.config, batch=1)
    logits = [
        jax.jit(model.clone(attention_implementation=name).apply, compiler_options=QUICK_COMPILE)(
            {"params": params}, pixel_values
        ).logits
        for name in ("plain", "blocks")
    ]
    assert_close(logits[1], logits[0], 1e-12, "logits")
    assert to_flax(reference, attention_implementation="blocks")[0].attention_implementation == "blocks"
    with pytest.raises(ValueError, match="never holds"):
        model.clone(attention_implementation="blocks").apply({"params": params}, pixel_values, output_attentions=True)


def test_choice():
    assert choose_implementation("auto", 197) == "plain"
    assert choose_implementation("auto", 6273) == "blocks"
    assert choose_implementation("auto", 1569) == "blocks"  # on a CPU
    assert choose_implementation("auto", 6273, needs_probabilities=True) == "plain"
    assert choose_implementation("plain", 6273) == "plain"
    assert choose_implementation("blocks", 8) == "blocks"
    assert (choose_implementation("cudnn", 197), choose_implementation("cudnn", 8)) == ("cudnn", "plain")
    with pytest.raises(ValueError, match="auto, plain, blocks, cudnn"):
        inspect.unwrap(choose_implementation)("flash", 197)  # past the import hook of the tests here


@pytest.mark.usefixtures("x64")
def test_a_cpu_takes_the_heads_two_by_two():
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(1, 3, rows, SIZE))) for rows in (600, 700, 700))

    def loss(*inputs: jax.Array) -> jax.Array:
        return jnp.sin(attention_in_blocks(*inputs, scale=0.4)).sum()

    def whole(*inputs: jax.Array) -> jax.Array:
        return jnp.sin(softmax_attention(*inputs, scale=0.4)[0]).sum()

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), compiler_options=QUICK_COMPILE)
    value_of, gradients = step(query, key, value)
    expected, expected_gradients = jax.value_and_grad(whole, argnums=(0, 1, 2))(query, key, value)
    assert_close(value_of, expected, 1e-12, "loss")  # float64, a sum of 14,400 sines
    for name, ours, theirs in zip("qkv", gradients, expected_gradients, strict=True):
        assert_close(ours, theirs, 1e-12, f"gradient of {name}")
    # For a TPU all heads at once: the loop over heads is for the platform it was lowered for alone.
    lowered = jax.jit(loss).trace(query, key, value).lower(lowering_platforms=("tpu",)).as_text()
    assert "tensor<3x512x512xf64>" in lowered
    assert "tensor<2x512x700xf64>" in jax.jit(loss).lower(query, key, value).as_text()


def test_long_attention_is_in_blocks_where_it_is_asked_for():
    """The blocks that the model uses, with a rest."""
    arrays = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, 1, 2, 600, SIZE)), jnp.float32)
    blocks, probabilities = attend(*arrays, scale=0.4, implementation="blocks")
    assert probabilities is None
    assert_close(blocks, softmax_attention(*arrays, scale=0.4)[0], 1e-5, "values")  # float32
