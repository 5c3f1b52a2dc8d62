"""What is random in training: where dropout and stochastic depth act, what masks are constant over, their keys."""

import functools
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytorch import torch, transformers
from reference import (
    ATTENTION_TYPES,
    BATCH,
    QUICK_COMPILE,
    TINY,
    check_outputs,
    clip,
    run_reference,
    tiny_reference,
    to_flax,
)

import timesformer_jax.model.layers
from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification
from timesformer_jax.model.layers import TimesformerEmbeddings, stochastic_depth_scale

FRAMES, PATCHES, WIDTH, HEADS, MLP = 5, 9, 24, 3, 40  # of the tiny model
TOKENS = {
    "divided_space_time": 1 + PATCHES * FRAMES,
    "joint_space_time": 1 + PATCHES * FRAMES,
    "space_only": 1 + PATCHES,
}
DROPOUT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}


def run_in_training(model: Any, params: Any, pixel_values: np.ndarray, *, seed: int = 0) -> Any:
    def apply(params: Any, pixel_values: Any, seed: Any) -> Any:
        return model.apply(
            {"params": params},
            pixel_values,
            train=True,
            output_attentions=True,
            output_hidden_states=True,
            rngs={"dropout": jax.random.key(seed)},
        )

    return jax.jit(apply, compiler_options=QUICK_COMPILE)(params, pixel_values, seed)


def in_flax(**changes: Any) -> tuple[Any, Any]:
    """A tiny model in float32 with random parameters, for tests that need no reference beside it."""
    model = TimesformerForVideoClassification(TimesformerConfig(**TINY | changes))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(clip(model.config).shape))["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_dropout_acts_where_the_reference_has_it(monkeypatch, attention_type):
    """Both dropouts become one function of a value and its rate, so that any other place or rate shows."""

    def flax_dropout(self: nn.Dropout, inputs: Any) -> Any:
        return inputs if self.deterministic else inputs + self.rate * jnp.tanh(inputs)

    def torch_dropout(self: torch.nn.Dropout, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.p * torch.tanh(inputs) if self.training else inputs

    monkeypatch.setattr(nn.Dropout, "__call__", flax_dropout)
    monkeypatch.setattr(torch.nn.Dropout, "forward", torch_dropout)
    reference = tiny_reference(attention_type=attention_type, **DROPOUT).train()
    pixel_values = clip(reference.config)
    with torch.no_grad():
        expected = run_reference(reference, pixel_values)
    check_outputs(run_in_training(*to_flax(reference), pixel_values), expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_stochastic_depth_acts_where_the_reference_has_it(monkeypatch, attention_type):
    """Both masks become one function of the rate and of the place in the batch of tubes, frames or clips.

    Temporal masks belong to a tube of patches, spatial ones to a frame and the MLP's to a clip, since that is what the
    reference's batch axis holds; with the temporal one after `temporal_dense`, its bias would show. The rates, 0, 0.375
    and 0.75, are exact in the float32 in which the reference computes them.
    """

    def flax_scale(key: Any, rate: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        return (1 + rate * jnp.sin(1 + jnp.arange(np.prod(shape)))).reshape(shape).astype(dtype)

    def torch_drop_path(inputs: torch.Tensor, drop_prob: float, training: bool) -> torch.Tensor:
        assert training
        scale = 1 + drop_prob * torch.sin(1 + torch.arange(len(inputs), dtype=inputs.dtype))
        return inputs * scale.view(-1, *[1] * (inputs.ndim - 1))

    monkeypatch.setattr(timesformer_jax.model.layers, "stochastic_depth_scale", flax_scale)
    monkeypatch.setattr(transformers.models.timesformer.modeling_timesformer, "drop_path", torch_drop_path)
    reference = tiny_reference(attention_type=attention_type, drop_path_rate=0.75, num_hidden_layers=3).train()
    pixel_values = clip(reference.config)
    with torch.no_grad():
        expected = run_reference(reference, pixel_values)
    check_outputs(run_in_training(*to_flax(reference), pixel_values), expected)


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_every_mask_has_its_own_key_and_full_shape(monkeypatch, attention_type):
    """Flax's and our masks come from jax.random.bernoulli, every call of which writes down what it was given."""
    calls = []

    def spy(key: Any, p: Any = 0.5, shape: Any = None) -> Any:
        if not isinstance(key, jax.core.Tracer):  # Flax traces a layer before it is scanned
            calls.append((tuple(jax.random.key_data(key).tolist()), round(1 - float(p), 4), tuple(shape)))
        return jnp.ones(shape, bool)

    model, params = in_flax(attention_type=attention_type, drop_path_rate=0.1, **DROPOUT)
    pixel_values = jnp.asarray(clip(model.config), jnp.float32)
    monkeypatch.setattr(jax.random, "bernoulli", spy)
    with jax.disable_jit():  # layer by layer, with keys that can be looked at
        model.apply({"params": params}, pixel_values, train=True, rngs={"dropout": jax.random.key(0)})

    keys = [key for key, _, _ in calls]
    assert len(set(keys)) == len(keys), "two masks are drawn from the same key"

    def elements(rate: float) -> int:
        return sum(int(np.prod(shape)) for _, r, shape in calls if r == rate)

    space_only, divided = attention_type == "space_only", attention_type == "divided_space_time"
    layers, tokens = 2, TOKENS[attention_type] * (FRAMES if space_only else 1)
    # Divided attention gives each frame a copy of CLS, whose output is dropped before the mean of the copies.
    spatial_tokens = (1 + PATCHES) * FRAMES if divided else tokens
    temporal_tokens = PATCHES * FRAMES if divided else 0
    embedded = tokens + (0 if space_only else PATCHES * FRAMES)  # before and after the time embedding
    hidden = WIDTH * embedded + layers * (WIDTH * (spatial_tokens + temporal_tokens + tokens) + MLP * tokens)
    assert elements(0.3) == BATCH * hidden
    frames = 1 if attention_type == "joint_space_time" else FRAMES
    probabilities = HEADS * frames * (spatial_tokens // frames) ** 2 + (HEADS * PATCHES * FRAMES**2 if divided else 0)
    assert elements(0.2) == BATCH * layers * probabilities

    paths = {"divided_space_time": PATCHES + FRAMES + 1, "joint_space_time": 1 + 1, "space_only": FRAMES + FRAMES}
    first_layer, second_layer = elements(0.0), elements(0.1)
    assert (first_layer, second_layer) == (BATCH * paths[attention_type],) * 2


@pytest.mark.parametrize(("num_hidden_layers", "dtype"), [(1, "float32"), (4, "float32"), (4, "bfloat16")])
def test_rates_of_stochastic_depth_grow_as_in_the_reference(monkeypatch, num_hidden_layers, dtype):
    reference = tiny_reference(num_hidden_layers=num_hidden_layers, drop_path_rate=0.6, image_size=4, num_frames=1)
    model, params = to_flax(reference, dtype=dtype)
    rates = []

    def spy(key: Any, rate: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        if not isinstance(rate, jax.core.Tracer):  # Flax traces a layer before it is scanned
            rates.append(float(rate))
        return jnp.ones(shape, dtype)

    monkeypatch.setattr(timesformer_jax.model.layers, "stochastic_depth_scale", spy)
    pixel_values = jnp.asarray(clip(model.config), jnp.float32)
    with jax.disable_jit():  # layer by layer, with rates that can be looked at
        model.apply({"params": params}, pixel_values, train=True, rngs={"dropout": jax.random.key(0)})
    expected = [getattr(layer.drop_path, "drop_prob", 0) for layer in reference.base_model.encoder.layer]
    # Three branches a layer; float32's rounding.
    np.testing.assert_allclose(rates, np.repeat(expected, 3), atol=1e-7)


def test_of_a_dropped_layer_the_bias_of_temporal_dense_stays():
    """At a rate next to one the last layer is left out whole, but for the bias that comes after the mask."""
    reference = tiny_reference(drop_path_rate=0.99999)
    model, params = to_flax(reference, dtype="float32")
    states = run_in_training(model, params, clip(reference.config).astype(np.float32)).hidden_states
    change = np.asarray(states[2] - states[1])
    bias = reference.state_dict()["timesformer.encoder.layer.1.temporal_dense.bias"].numpy()
    np.testing.assert_array_equal(change[:, 0], 0)
    # Subtracting the tokens of size 10 again leaves float32's rounding of them.
    np.testing.assert_allclose(change[:, 1:], np.broadcast_to(bias, change[:, 1:].shape), atol=1e-5)
    assert np.abs(states[1] - states[0]).max() > 1, "the first layer's rate is zero"


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.75])
def test_stochastic_depth_scale(rate):
    scale = np.asarray(stochastic_depth_scale(jax.random.key(3), rate, (200, 50, 1), jnp.float32), np.float64)
    assert scale.shape == (200, 50, 1)
    kept = scale > 0
    np.testing.assert_allclose(scale[kept], 1 / (1 - rate), rtol=1e-6)  # float32
    # Six standard errors of a mean of 10,000 draws, and of rows and columns, which shared draws would widen.
    deviation = (rate / (1 - rate)) ** 0.5
    assert abs(scale.mean() - 1) <= 6 * deviation / 10_000**0.5
    assert np.abs(scale.mean(0) - 1).max() <= 6 * deviation / 200**0.5
    assert np.abs(scale.mean(1) - 1).max() <= 6 * deviation / 50**0.5


def test_expectation_of_dropout():
    """The mean over many keys is what evaluation computes."""
    model, params = in_flax(**DROPOUT)
    module = TimesformerEmbeddings(model.config)
    variables = {"params": params["timesformer"]["embeddings"]}
    pixel_values = jnp.asarray(clip(model.config, batch=1), jnp.float32)

    def sample(key: Any) -> Any:
        return module.apply(variables, pixel_values, train=True, rngs={"dropout": key})

    samples = jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(0), 4000))
    for name, some, expected in zip(("CLS", "patches"), samples, module.apply(variables, pixel_values), strict=True):
        some = np.asarray(some)
        error = np.abs(some.mean(0) - np.asarray(expected)) / (some.std(0) / len(some) ** 0.5)
        assert error.max() < 6, f"{name}: {error.max():.1f} standard errors from the mean"
    # Dropped before, kept after (0.3 of 0.7 of the elements are then the time embedding alone); dropped after: zero.
    zeros = (np.asarray(samples[1]) == 0).mean()
    assert abs(zeros - 0.3) < 0.003, f"a share of {zeros} of the patches' elements is zero, expected 0.3"


def test_keys_decide():
    model, params = in_flax(drop_path_rate=0.3, num_hidden_layers=1, image_size=4, **DROPOUT)
    pixel_values = jnp.asarray(clip(model.config), jnp.float32)

    def logits(key: Any) -> Any:
        return model.apply({"params": params}, pixel_values, train=True, rngs={"dropout": key}).logits

    logits = jax.jit(logits, compiler_options=QUICK_COMPILE)
    first, again, other = (logits(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_rates_need_a_key_in_training_only():
    model, params = in_flax(drop_path_rate=0.3, **DROPOUT)
    pixel_values = jnp.asarray(clip(model.config), jnp.float32)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        model.apply({"params": params}, pixel_values, train=True)
    plain, _ = in_flax()

    @functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK_COMPILE)
    def logits(model: Any, train: bool) -> Any:
        return model.apply({"params": params}, pixel_values, train=train).logits

    expected = logits(plain, False)
    np.testing.assert_array_equal(logits(model, False), expected)
    # In training two kernels are multiplied first, which rounds in another order: float32, two layers.
    np.testing.assert_allclose(logits(plain, True), expected, rtol=1e-5, atol=1e-6)
