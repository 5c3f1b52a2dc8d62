"""Mixup, cutmix and label smoothing, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from timesformer_jax.data.config import Augmentation
from timesformer_jax.data.on_device import mix_batch, rectangles, smooth_labels, symmetric_beta

BATCH, FRAMES, HEIGHT, WIDTH, CLASSES = 6, 3, 20, 28, 7

mix = jax.jit(mix_batch, static_argnums=3)


def batch() -> tuple[jax.Array, jax.Array]:
    """Clips whose every pixel is the clip's number, and one-hot targets of as many classes."""
    clips = jnp.broadcast_to(
        jnp.arange(BATCH, dtype=jnp.float32)[:, None, None, None, None], (BATCH, FRAMES, HEIGHT, WIDTH, 3)
    )
    return clips, smooth_labels(jnp.arange(BATCH), CLASSES)


def test_label_smoothing() -> None:
    labels = np.array([2, 0, -100])
    expected = np.full((3, 5), 0.1 / 5)
    expected[0, 2] += 0.9
    expected[1, 0] += 0.9
    np.testing.assert_allclose(smooth_labels(jnp.asarray(labels), 5, 0.1), expected, atol=1e-7)
    np.testing.assert_array_equal(smooth_labels(jnp.asarray([1]), 3), [[0, 1, 0]])


def test_without_mixing_the_batch_is_as_it_was() -> None:
    clips, targets = batch()
    mixed, mixed_targets = mix_batch(jax.random.key(0), clips, targets, Augmentation())
    assert mixed is clips
    assert mixed_targets is targets
    mixed, mixed_targets = mix(jax.random.key(0), clips, targets, Augmentation(mixup=0.8, mix_probability=0.0))
    np.testing.assert_array_equal(mixed, clips)
    np.testing.assert_array_equal(mixed_targets, targets)


def test_mixup_is_a_weighted_sum_of_clip_and_counterpart() -> None:
    clips, targets = batch()
    weights = []
    for seed in range(20):
        mixed, mixed_targets = map(np.asarray, mix(jax.random.key(seed), clips, targets, Augmentation(mixup=0.8)))
        for i in range(BATCH):
            weight = mixed_targets[i, i]
            weights.append(weight)
            np.testing.assert_allclose(mixed[i], weight * i + (1 - weight) * (BATCH - 1 - i), atol=1e-5)
            assert mixed_targets[i, BATCH - 1 - i] == pytest.approx(1 - weight, abs=1e-6)
        np.testing.assert_allclose(mixed_targets.sum(1), 1, atol=1e-6)
    # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 (2 * 0.8 + 1)).
    assert np.mean(weights) == pytest.approx(0.5, abs=0.08)
    assert np.var(weights) == pytest.approx(1 / 10.4, abs=0.025)


@pytest.mark.parametrize("parameter", [0.2, 0.8, 1.0, 4.0])
def test_shares_are_distributed_as_beta(parameter: float) -> None:
    drawn = np.asarray(symmetric_beta(jax.random.key(0), parameter, 20_000))
    edges = np.linspace(0, 1, 11)
    expected = np.diff(scipy.stats.beta.cdf(edges, parameter, parameter))
    np.testing.assert_allclose(np.histogram(drawn, edges)[0] / 20_000, expected, atol=0.012)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_cutmix_replaces_a_rectangle_and_weighs_by_its_area() -> None:
    clips, targets = batch()
    for seed in range(20):
        mixed, mixed_targets = map(np.asarray, mix(jax.random.key(seed), clips, targets, Augmentation(cutmix=1.0)))
        for i in range(BATCH):
            assert set(np.unique(mixed[i]).tolist()) <= {float(i), float(BATCH - 1 - i)}
            replaced = mixed[i, 0, :, :, 0] != i
            assert (mixed[i] == mixed[i, :1, :, :, :1]).all()  # the same in all frames and channels
            rows, columns = replaced.any(1), replaced.any(0)
            np.testing.assert_array_equal(replaced, rows[:, None] & columns[None])
            assert mixed_targets[i, i] == pytest.approx(1 - replaced.mean(), abs=1e-6)


def test_a_rectangle_inside_the_picture_has_the_area_and_shape_asked_for() -> None:
    area = jnp.full(400, 0.25)
    draw = jax.jit(rectangles, static_argnums=(2, 3))
    inside = np.asarray(draw(jax.random.key(1), area, 20, 28))
    sizes = {(int(r.any(1).sum()), int(r.any(0).sum())) for r in inside}
    assert max(height for height, _ in sizes) == 10
    assert max(width for _, width in sizes) == 14
    assert (10, 14) in sizes
    assert not np.asarray(draw(jax.random.key(1), jnp.zeros(400), 20, 28)).any()


def test_both_mixings_share_the_batch_and_some_clips_are_left() -> None:
    clips, targets = batch()
    augmentation = Augmentation(mixup=0.8, cutmix=1.0, mix_probability=0.6)
    kinds = {"mixup": 0, "cutmix": 0, "none": 0}
    for seed in range(60):
        mixed = np.asarray(mix(jax.random.key(seed), clips, targets, augmentation)[0])
        for i in range(BATCH):
            values = np.unique(mixed[i])
            kinds["none" if (mixed[i] == i).all() else "cutmix" if set(values) <= {i, BATCH - 1 - i} else "mixup"] += 1
    total = 60 * BATCH
    assert kinds["mixup"] / total == pytest.approx(0.3, abs=0.08)
    assert 0.2 < kinds["cutmix"] / total < 0.38
    assert kinds["none"] / total > 0.3


def test_it_compiles_and_depends_on_its_key_alone() -> None:
    clips, targets = batch()
    augmentation = Augmentation(mixup=0.8, cutmix=1.0)
    one, same, other = (mix(jax.random.key(seed), clips, targets, augmentation)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (np.asarray(one) != np.asarray(other)).any()
    assert mix(jax.random.key(1), clips.astype(jnp.bfloat16), targets, augmentation)[0].dtype == jnp.bfloat16
