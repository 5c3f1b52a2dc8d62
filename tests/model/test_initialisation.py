"""Freshly made parameters: their names and shapes, how many, and where they start."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ATTENTION_TYPES, QUICK_COMPILE, TINY

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel
from timesformer_jax.checkpoints.mapping import flat_names, mapping_table

# Large enough for tight statistics.
CONFIG = TimesformerConfig(
    image_size=32,
    patch_size=(8, 4),
    num_frames=6,
    hidden_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=200,
    num_labels=50,
    initializer_range=0.03,
)


def init(model: Any, seed: int = 0) -> Any:
    config = model.config
    clip = jnp.zeros((1, config.num_frames, *config.image_shape, config.num_channels), model.dtype)
    return jax.jit(model.init, compiler_options=QUICK_COMPILE)(jax.random.key(seed), clip)


@pytest.fixture(scope="module")
def variables() -> Any:
    return init(TimesformerForVideoClassification(CONFIG))


@pytest.fixture(scope="module")
def params(variables) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in flat_names(variables["params"]).items()}


def named(params: dict[str, np.ndarray], *parts: str) -> dict[str, np.ndarray]:
    found = {name: leaf for name, leaf in params.items() if all(part in name for part in parts)}
    assert found, parts
    return found


def check_deviation(name: str, leaf: np.ndarray, deviation: float) -> None:
    # The standard errors of a deviation and of a mean; the samples are independent.
    assert abs(leaf.std() / deviation - 1) < 5 / math.sqrt(2 * leaf.size), f"{name} has deviation {leaf.std():.4f}"
    assert abs(leaf.mean()) < 5 * deviation / math.sqrt(leaf.size), f"{name} has mean {leaf.mean():.4f}"


def test_weights_are_normal(params):
    weights = {
        **named(params, "qkv/kernel"),
        **named(params, "output/kernel"),
        **named(params, "mlp/intermediate/kernel"),
        **named(params, "classifier/kernel"),
        **named(params, "cls_token"),
        **named(params, "position_embeddings"),
    }
    assert len(weights) == 9
    for name, leaf in weights.items():
        check_deviation(name, leaf, 0.03)
    everything = np.concatenate([leaf.ravel() / 0.03 for leaf in weights.values()])
    # Normal, and not cut at two deviations: 4.55% lie beyond.
    assert abs((np.abs(everything) > 2).mean() - 0.0455) < 0.002


def test_what_starts_at_zero_or_one(params):
    """The temporal projection at zero in every layer: training starts from an image model (the paper's code)."""
    ones = named(params, "scale")
    assert len(ones) == 4
    assert all((leaf == 1).all() for leaf in ones.values())
    biases = {name: leaf for name, leaf in named(params, "bias").items() if "patch_embeddings" not in name}
    zeros = {**biases, **named(params, "temporal_dense"), **named(params, "time_embeddings")}
    assert len(zeros) == 4 + 4 + 2 + 2 + 1 + 1  # norms, attentions, MLP, temporal_dense, classifier, time embeddings
    for name, leaf in zeros.items():
        assert (leaf == 0).all(), name


def test_patch_projection_starts_as_pytorch_starts_a_convolution(params):
    kernel, bias = (params[f"timesformer/embeddings/patch_embeddings/{kind}"] for kind in ("kernel", "bias"))
    bound = 1 / math.sqrt(8 * 4 * 3)
    for name, leaf in (("kernel", kernel), ("bias", bias)):
        assert np.abs(leaf).max() <= bound, name
        assert np.abs(leaf).max() > 0.95 * bound, name
        assert abs(leaf.std() / (bound / math.sqrt(3)) - 1) < 5 / math.sqrt(2 * leaf.size), name


def test_layers_and_tensors_differ(params):
    random = [leaf for name, leaf in params.items() if leaf.std() > 0]
    rows = [row.ravel()[:48] for leaf in random for row in (leaf if leaf.shape[0] == 3 else [leaf])]
    assert len({row.tobytes() for row in rows}) == len(rows), "two tensors or layers start alike"


def test_seeds_differ_and_repeat():
    model = TimesformerModel(CONFIG.replace(num_hidden_layers=1))
    clip = jnp.zeros((1, 1, 32, 32, 3))
    init_with = jax.jit(lambda seed: model.init(jax.random.key(seed), clip), compiler_options=QUICK_COMPILE)
    first, again, other = (
        flat_names(init_with(seed)["params"])["encoder/layers/mlp/output/kernel"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(again, first)
    assert (np.asarray(other) != np.asarray(first)).any()


def test_initializer_range_of_zero():
    params = flat_names(init(TimesformerModel(CONFIG.replace(initializer_range=0.0)))["params"])
    assert (np.asarray(params["encoder/layers/mlp/output/kernel"]) == 0).all()


@pytest.mark.parametrize("head", [True, False], ids=["classifier", "bare"])
@pytest.mark.parametrize(
    "changes", [{}, {"qkv_bias": False, "num_labels": 0}, {"patch_size": (4, 2), "num_channels": 1}]
)
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_parameters_are_those_of_the_mapping_table(attention_type, changes, head):
    config = TimesformerConfig(**TINY | {"attention_type": attention_type} | changes)
    model = (TimesformerForVideoClassification if head else TimesformerModel)(config)
    shapes = {name: leaf.shape for name, leaf in flat_names(jax.eval_shape(init_of(model))["params"]).items()}
    assert shapes == {"/".join(entry.path): entry.shape for entry in mapping_table(config, head=head)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_param_dtype(dtype):
    config = TimesformerConfig(**TINY)
    model = TimesformerForVideoClassification(config, param_dtype=jnp.dtype(dtype))
    leaves = jax.tree.leaves(jax.eval_shape(init_of(model)))
    assert {str(leaf.dtype) for leaf in leaves} == {dtype}


@pytest.mark.parametrize(
    ("attention_type", "count"),
    [("divided_space_time", 121_566_352), ("joint_space_time", 86_112_400), ("space_only", 86_106_256)],
)
def test_published_parameter_counts(attention_type, count):
    model = TimesformerForVideoClassification(TimesformerConfig.preset("base-k400", attention_type=attention_type))
    shapes = jax.eval_shape(init_of(model))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


def test_parameters_are_a_plain_dict_of_arrays(variables):
    """No boxed metadata, nothing of Flax's: optax, Orbax and a person can read it."""
    assert list(variables) == ["params"]

    def check(node: Any, path: str) -> None:
        if isinstance(node, jax.Array):
            return
        assert type(node) is dict, f"{path} is a {type(node).__name__}"
        for key, child in node.items():
            check(child, f"{path}/{key}")

    check(variables, "")


def init_of(model: Any) -> Any:
    config = model.config
    clip = jax.ShapeDtypeStruct((1, config.num_frames, *config.image_shape, config.num_channels), jnp.float32)
    return lambda: model.init(jax.random.key(0), jnp.zeros(clip.shape, clip.dtype))
