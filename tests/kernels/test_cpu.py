"""Matrix products: on a CPU of two matrices, elsewhere as they are written; never merged axes that are spread."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from tiny_flax import clips, tiny_flax

from timesformer_jax.kernels.choice import choose_implementation
from timesformer_jax.kernels.cpu import computed_before, matrix_product
from timesformer_jax.model.layers import TimesformerLayer
from timesformer_jax.model.merged import MergedLayer
from timesformer_jax.sharding import AXES, ShardingRules, on_cpu

TOKENS, KERNEL = (2, 3, 5, 4, 6), (4, 6, 3, 2, 7)
CONTRACTED = (((3, 4), (0, 1)), ((), ()))


@contextlib.contextmanager
def devices(platform: str, **sizes: int) -> Iterator[None]:
    """Devices that are not there, as a program for them is traced."""
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    device = AbstractDevice(platform.upper(), 1, platform)
    mesh = AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(ShardingRules().pairs()):
        yield


def products_of(*shapes: tuple[int, ...]) -> list[str]:
    """The shapes of the products that the compiler is given, such as "30x42"."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = jax.jit(lambda tokens, kernel: matrix_product(tokens, kernel, CONTRACTED)).lower(*arrays)
    return re.findall(r"stablehlo\.dot_general .*-> tensor<([0-9x]+)xf32>", lowered.as_text())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("empty", [False, True])
def test_the_product_is_that_of_dot_general(empty: bool) -> None:
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(2, 0 if empty else 3, *TOKENS[2:])))
    kernel = jnp.asarray(rng.normal(size=KERNEL))
    expected = jax.lax.dot_general(tokens, kernel, CONTRACTED)
    found = matrix_product(tokens, kernel, CONTRACTED)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)  # float64, sums of 24


def test_only_a_cpu_gets_products_of_two_matrices() -> None:
    assert on_cpu()
    assert products_of(TOKENS, KERNEL) == ["30x42"]
    with devices("tpu"):
        assert not on_cpu()
        assert products_of(TOKENS, KERNEL) == ["2x3x5x3x2x7"]
    with devices("cpu", data=2):
        assert on_cpu()
        assert products_of(TOKENS, KERNEL) == ["30x42"]


@pytest.mark.parametrize("axis", ["tensor", "frames"])
def test_axes_that_are_spread_are_not_merged(axis: str) -> None:
    with devices("cpu", **{axis: 2}):
        assert products_of(TOKENS, KERNEL) == ["2x3x5x3x2x7"]


def test_a_cpu_takes_blocks_of_attention_sooner() -> None:
    assert choose_implementation("auto", 1569) == "blocks"
    assert choose_implementation("auto", 785) == "plain"
    with devices("tpu"):
        assert choose_implementation("auto", 1569) == "plain"
        assert choose_implementation("auto", 6273) == "blocks"


def test_what_is_computed_before_a_product_stays_as_it_is() -> None:
    values = jnp.asarray([0.0, -0.0, 2e-38, -3e38, jnp.inf, -jnp.inf, jnp.nan])
    np.testing.assert_array_equal(computed_before(values), values)
    np.testing.assert_array_equal(jax.grad(lambda x: computed_before(x).sum())(values[:4]), np.ones(4))


def test_norms_are_kept_apart_from_products_but_in_training() -> None:
    """In training nothing holds the operation that keeps them apart, for its gradient would cost something."""
    model, params = tiny_flax("divided_space_time", dtype=jnp.float32)

    def loss(params: Any, train: bool) -> Any:
        key = jax.random.key(0)
        outputs = model.apply({"params": params}, clips().astype(np.float32), train=train, rngs={"dropout": key})
        return outputs.logits.sum()

    def lowered(function: Any, *, train: bool) -> str:
        return jax.jit(function, static_argnums=1).lower(params, train).as_text()

    assert "stablehlo.clamp" in lowered(loss, train=False)
    assert "stablehlo.clamp" not in lowered(jax.grad(loss), train=True)


def divided(**config: Any) -> tuple[Any, Any]:
    """A model with more tokens (2 clips of 3 x 8) than they are wide, and random drops of branches."""
    return tiny_flax("divided_space_time", **{"drop_path_rate": 0.5} | config)


def operations(model: Any, params: Any, *, train: bool = True) -> float:
    """How many floating-point operations a forward pass takes."""

    def forward(params: Any) -> Any:
        return model.apply({"params": params}, clips(), train=train, rngs={"dropout": jax.random.key(0)}).logits

    costs = jax.jit(forward).lower(params).cost_analysis()
    assert costs is not None
    return costs["flops"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("remat", ["none", "dots"])
def test_merged_projections_are_the_two_after_each_other(remat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, params = divided()
    model = model.clone(remat=remat)

    def loss(params: Any) -> Any:
        outputs = model.apply({"params": params}, clips(), train=True, rngs={"dropout": jax.random.key(1)})
        return jnp.sin(outputs.logits).sum()

    merged = jax.value_and_grad(loss)(params)
    monkeypatch.setattr(MergedLayer, "attention_class", TimesformerLayer.attention_class)
    apart = jax.value_and_grad(loss)(params)
    assert jax.tree.structure(merged) == jax.tree.structure(apart)
    for ours, theirs in zip(jax.tree.leaves(merged), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12 * np.abs(theirs).max())  # float64


@pytest.mark.usefixtures("x64")
def test_projections_are_merged_where_that_saves_work() -> None:
    apart = operations(*divided(), train=False)
    assert operations(*divided()) < 0.98 * apart
    assert operations(*divided(hidden_dropout_prob=0.1)) > apart  # which acts between the two
    with devices("cpu", data=2):  # 24 tokens on each, as many as they are wide
        assert operations(*divided()) > apart
