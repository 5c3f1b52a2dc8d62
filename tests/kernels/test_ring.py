"""Attention round a ring of devices, here of one (test_sharding.py has more), against the whole matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close

from timesformer_jax.kernels.ring import ring_attention, spread_cls_attention
from timesformer_jax.model.attention import grouped_attention
from timesformer_jax.model.token_groups import TokenGroups
from timesformer_jax.sharding import MeshConfig, axes_in_use, make_mesh, use_mesh

PATCHES, FRAMES, HEADS, SIZE = 3, 5, 2, 4


def projections(dtype: str) -> tuple[jax.Array, jax.Array]:
    """Of CLS and of patches."""
    rng = np.random.default_rng(0)
    shapes = ((2, places, frames, 3, HEADS, SIZE) for places, frames in ((1, 1), (PATCHES, FRAMES)))
    cls, patches = (jnp.asarray(rng.normal(size=shape) * 2, dtype) for shape in shapes)
    return cls, patches


def whole(cls: jax.Array, patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same by the whole matrix."""
    cls_values, values, _ = grouped_attention(TokenGroups("clip", (1, PATCHES), FRAMES), cls, patches, scale=0.4)
    return cls_values, values


def ring(cls: jax.Array, patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    return ring_attention(cls, patches, ("frames",), scale=0.4, blocks=(4, 4))


@pytest.mark.usefixtures("x64", "quick_compile")
def test_values_and_gradients_equal_the_whole_matrix() -> None:
    arrays = projections("float64")
    expected, pull_back = jax.vjp(whole, *arrays)
    with use_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        assert axes_in_use("parallel") == ()  # a single device
        found, pull_ring_back = jax.vjp(jax.jit(ring), *arrays)
        gradient = jax.tree.map(jnp.sin, expected)
        gradients = pull_ring_back(gradient)
    for name, ours, theirs in zip(("cls", "patches"), found, expected, strict=True):
        assert_close(ours, theirs, 1e-14, name)  # float64, sums of some dozen terms
    for name, ours, theirs in zip(("cls", "patches"), gradients, pull_back(gradient), strict=True):
        assert_close(ours, theirs, 1e-13, f"gradient of {name}")


@pytest.mark.usefixtures("quick_compile")
def test_types_are_kept_and_sums_are_float32() -> None:
    arrays = projections("bfloat16")
    with use_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        found = jax.jit(ring)(*arrays)
    for ours, theirs in zip(found, whole(*(x.astype(jnp.float32) for x in arrays)), strict=True):
        assert ours.dtype == jnp.bfloat16
        assert_close(ours.astype(jnp.float32), theirs, 2**-7, "values")  # weights and result are rounded to 8 bits


@pytest.mark.usefixtures("x64")
def test_cls_alone() -> None:
    cls, patches = projections("float64")
    values = spread_cls_attention(cls[..., :1, :, :], (cls[..., 1:, :, :], patches[..., 1:, :, :]), scale=0.4)
    assert_close(values, whole(cls, patches)[0], 1e-14, "values")
