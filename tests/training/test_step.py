"""The training step: parts of a batch equal the batch, what is computed again equals what was kept, seeds and types."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import QUICK_COMPILE, TINY

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, VideoProcessor
from timesformer_jax.data.config import Augmentation, DataConfig
from timesformer_jax.data.on_device import normalize
from timesformer_jax.training.optimizer import make_optimizer
from timesformer_jax.training.recipe import TrainConfig
from timesformer_jax.training.state import TrainState
from timesformer_jax.training.step import make_train_step

PROCESSOR = VideoProcessor(size=12, crop_size=(12, 12))
BATCH = 4


def batch() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (BATCH, TINY["num_frames"], 12, 12, 3), dtype=np.uint8)
    return {"frames": frames, "labels": np.array([3, 6, 0, 3], np.int32)}


@functools.cache
def take_step(
    recipe: TrainConfig,
    dtype: Any = jnp.float64,
    param_dtype: Any = None,
    remat: Any = "none",
    **config: Any,
) -> tuple[TrainState, Any]:
    """The state after a step of plain SGD, whose size tells the gradient, and its metrics. Twice gives the same."""
    settings = TimesformerConfig(**TINY | {"initializer_range": 0.3} | config)
    model = TimesformerForVideoClassification(settings, dtype=dtype, param_dtype=param_dtype or dtype, remat=remat)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 5, 12, 12, 3), dtype))["params"]
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.3, leaf.dtype), shapes)
    rate = optax.constant_schedule(0.1)
    optimizer = make_optimizer(recipe.optimizer, rate, num_layers=settings.num_hidden_layers)
    step = jax.jit(make_train_step(model, recipe, optimizer, rate, PROCESSOR), compiler_options=QUICK_COMPILE)
    state = TrainState.create(params, optimizer, ema=False)
    once, twice = (step(state, batch()) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, once, twice)
    return once


def assert_equal(found: TrainState, expected: TrainState, tolerance: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=0), found.params, expected.params)


@pytest.mark.usefixtures("x64")
def test_parts_of_a_batch_equal_the_batch() -> None:
    recipe = TrainConfig(batch_size=BATCH)
    expected, expected_metrics = take_step(recipe)
    for parts in (2, 4):
        found, metrics = take_step(dataclasses.replace(recipe, accumulation=parts))
        assert_equal(found, expected, 1e-13)
        np.testing.assert_allclose(metrics.loss, expected_metrics.loss, rtol=1e-13)
        np.testing.assert_allclose(metrics.gradient_norm, expected_metrics.gradient_norm, rtol=1e-12)
        assert metrics.accuracy == expected_metrics.accuracy


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("remat", ["dots", "full", "clips"])
def test_what_is_computed_again_equals_what_was_kept(remat: str) -> None:
    # "clips" draws for each clip by itself: only where nothing is drawn is it the same.
    rates = {} if remat == "clips" else {"drop_path_rate": 0.3, "hidden_dropout_prob": 0.2}
    recipe = TrainConfig(batch_size=BATCH)
    expected, expected_metrics = take_step(recipe, **rates)
    found, metrics = take_step(recipe, remat=remat, **rates)
    assert_equal(found, expected, 1e-13)
    np.testing.assert_allclose(metrics.loss, expected_metrics.loss, rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_randomness_comes_of_the_seed_and_the_step() -> None:
    augmentation = Augmentation(mixup=0.8, cutmix=0.5)
    recipe = TrainConfig(batch_size=BATCH, data=DataConfig(augmentation=augmentation))
    still = dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, weight_decay=0.0))
    one, other = (take_step(dataclasses.replace(still, seed=seed), drop_path_rate=0.4)[1].loss for seed in (0, 1))
    assert one != other


def test_bfloat16_computes_and_float32_keeps() -> None:
    state, metrics = take_step(
        TrainConfig(batch_size=BATCH, accumulation=2), dtype=jnp.bfloat16, param_dtype=jnp.float32
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.optimizer[1]))} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(metrics.replace(finite=None))} == {jnp.dtype("float32")}
    _, exact = take_step(TrainConfig(batch_size=BATCH), dtype=jnp.float32)
    assert metrics.loss != exact.loss
    np.testing.assert_allclose(metrics.loss, exact.loss, rtol=0.05)


def test_frames_are_normalised_as_the_processor_does() -> None:
    frames = batch()["frames"]
    for processor in (PROCESSOR, VideoProcessor(image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6))):
        expected = processor.rescale_and_normalize(frames)
        np.testing.assert_allclose(normalize(jnp.asarray(frames), processor, jnp.float32), expected, atol=1e-5)
    swapped = dataclasses.replace(processor, channel_order="bgr")
    expected = swapped.rescale_and_normalize(np.ascontiguousarray(frames[..., ::-1]))
    np.testing.assert_allclose(normalize(jnp.asarray(frames), swapped, jnp.float32), expected, atol=1e-5)
