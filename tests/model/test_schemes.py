"""The schemes whose code was never released, and the paper's ablations: against masked attention in plain numpy."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy_timesformer
import pytest
from reference import FLOAT64_TOLERANCE, QUICK_COMPILE, assert_close, relative_difference, run_flax, torch_names
from tiny_flax import BATCH, tiny_flax

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel
from timesformer_jax.checkpoints.mapping import flat_names, mapping_table
from timesformer_jax.errors import ConfigError
from timesformer_jax.schemes import attention_steps, steps_for_cls

NEW = ("sparse_local_global", "axial")

# Rows, columns and frames: odd and even ones, single ones, and grids whose windows are all of it, or little.
SIZES = {
    "even": (2, 4, 2),
    "odd": (5, 3, 3),
    "mixed": (6, 7, 4),
    "one frame": (4, 3, 1),
    "one row": (1, 5, 3),
    "one patch": (1, 1, 5),
}


def pixels(rows: int, columns: int, frames: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(batch, frames, 4 * rows, 4 * columns, 3))


def in_numpy(model: Any, params: Any, pixel_values: np.ndarray) -> numpy_timesformer.NumpyOutput:
    return numpy_timesformer.run(torch_names(params, model.config), model.config, pixel_values)


def assert_same_tokens(actual: Any, expected: numpy_timesformer.NumpyOutput) -> None:
    for i, (ours, theirs) in enumerate(zip(actual.hidden_states, expected.hidden_states, strict=True)):
        assert_close(ours, theirs, FLOAT64_TOLERANCE, f"hidden_states[{i}]")
    assert_close(actual.logits, expected.logits, FLOAT64_TOLERANCE, "logits")


def whole(name: str, kind: str, given: Any, rows: int, columns: int, frames: int) -> np.ndarray:
    """What the model returns of one layer and clip as a matrix on all tokens, by the definitions in outputs.py."""
    given, tokens = np.asarray(given), 1 + rows * columns * frames

    def token(t: int, row: int, column: int) -> int:
        return 1 + (row * columns + column) * frames + t

    groups: list[tuple[np.ndarray, list[int]]] = []
    if name == "temporal_attention":
        groups = [(given[p], [1 + p * frames + t for t in range(frames)]) for p in range(rows * columns)]
    elif name == "width_attention":
        for i in range(frames * rows):
            groups.append((given[i], [0, *(token(i // rows, i % rows, c) for c in range(columns))]))
    elif name == "attention" and kind == "axial":
        for i in range(frames * columns):
            groups.append((given[i], [0, *(token(i // columns, r, i % columns) for r in range(rows))]))
    elif name == "attention":
        phases = [(a, b, c) for a in range(frames)[:2] for b in range(rows)[:2] for c in range(columns)[:2]]
        for matrix, (a, b, c) in zip(given, phases, strict=True):
            places = [  # -1 where an odd length is padded
                token(t, row, column) if t < frames and row < rows and column < columns else -1
                for t in range(a, a + 2 * math.ceil(frames / 2), 2)
                for row in range(b, b + 2 * math.ceil(rows / 2), 2)
                for column in range(c, c + 2 * math.ceil(columns / 2), 2)
            ]
            there = [0, *(1 + i for i, place in enumerate(places) if place >= 0)]
            padded = np.setdiff1d(np.arange(len(places) + 1), there)
            assert not matrix[:, padded].any()
            assert not matrix[:, :, padded].any()
            groups.append((matrix[:, there][:, :, there], [0, *(place for place in places if place >= 0)]))
    else:
        for p in range(rows * columns):
            near = [numpy_timesformer.span(x, n) for x, n in zip(divmod(p, columns), (rows, columns), strict=True)]
            keys = [token(t, r, c) for r in near[0] for c in near[1] for t in range(frames)]
            matrix = np.zeros((given.shape[1], tokens, tokens))
            for t in range(frames):
                matrix[:, 1 + p * frames + t, keys] = given[p, :, t]
            groups.append((matrix, list(range(tokens))))
    result = np.zeros((groups[0][0].shape[0], tokens, tokens))
    for matrix, members in groups:
        result[np.ix_(range(len(result)), members, members)] += matrix
    result[:, 0] /= len(groups)  # the copies of CLS are averaged
    return result


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("kind", NEW)
def test_equals_masked_attention(kind: str, size: tuple[int, int, int]) -> None:
    """Tokens after every layer and all attentions, at other sizes than the config's."""
    model, params = tiny_flax(kind, qkv_bias=size != SIZES["odd"])
    pixel_values = pixels(*size)
    actual, expected = run_flax(model, params, pixel_values), in_numpy(model, params, pixel_values)
    assert_same_tokens(actual, expected)
    names = {"attentions", "temporal_attentions", "width_attentions", "local_attentions"}
    for name, layers in expected.whole.items():
        returned = getattr(actual, f"{name}s")
        names.remove(f"{name}s")
        for ours, theirs in zip(returned, layers, strict=True):
            for clip_ours, clip_theirs in zip(ours, theirs, strict=True):
                assert_close(whole(name, kind, clip_ours, *size), clip_theirs, FLOAT64_TOLERANCE, name)
    assert all(getattr(actual, name) is None for name in names)
    without = jax.eval_shape(lambda: model.apply({"params": params}, pixel_values))
    assert len(jax.tree.leaves(without)) == 1


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), [("axial", SIZES["odd"]), ("sparse_local_global", SIZES["odd"])])
def test_gradients_are_those_of_masked_attention(kind: str, size: tuple[int, int, int]) -> None:
    """Along a random direction, by differences in numpy; and they are the same whatever is computed again."""
    model, params = tiny_flax(kind, num_hidden_layers=1)
    pixel_values, labels = pixels(*size), jnp.array([3])

    def loss(params: Any, remat: Any) -> Any:
        return model.clone(remat=remat).apply({"params": params}, pixel_values, labels, train=True).loss

    slope_of = jax.jit(jax.grad(loss), static_argnums=1, compiler_options=QUICK_COMPILE)
    gradients, again = slope_of(params, "none"), slope_of(params, "full")
    for name, ours in flat_names(again).items():
        # Keys have no bias that matters: what is zero but for rounding can't be compared with itself.
        assert np.abs(ours - flat_names(gradients)[name]).max() <= 1e-12, name

    random = np.random.default_rng(2)
    direction = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), params)
    slope = sum(float((a * b).sum()) for a, b in zip(*map(jax.tree.leaves, (gradients, direction)), strict=True))

    def numpy_loss(step: float) -> float:
        moved = jax.tree.map(lambda leaf, along: leaf + step * along, params, direction)
        logits = in_numpy(model, moved, pixel_values).logits[0]
        return float(np.log(np.exp(logits).sum()) - logits[3])

    step = 1e-5  # central differences: off by its square times the third derivative, and by 1e-16 / step
    assert slope == pytest.approx((numpy_loss(step) - numpy_loss(-step)) / (2 * step), rel=1e-6)
    assert abs(slope) > 1e-2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("order", "embeddings"),
    [("time_space", "none"), ("space_time", "space_time"), ("space_time", "none"), ("parallel", "space")],
)
def test_orders_and_embeddings_equal_numpy(order: str, embeddings: str) -> None:
    model, params = tiny_flax("divided_space_time", attention_order=order, position_embedding_type=embeddings)
    pixel_values = pixels(3, 2, 4, BATCH)
    actual, expected = run_flax(model, params, pixel_values), in_numpy(model, params, pixel_values)
    assert_same_tokens(actual, expected)
    for name in ("attentions", "temporal_attentions"):
        for ours, theirs in zip(getattr(actual, name), getattr(expected, name), strict=True):
            assert_close(ours, theirs, FLOAT64_TOLERANCE, name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("kind", "embeddings"),
    [("joint_space_time", "space"), ("space_only", "none"), ("sparse_local_global", "none"), ("axial", "space")],
)
def test_embeddings_of_other_schemes_equal_numpy(kind: str, embeddings: str) -> None:
    model, params = tiny_flax(kind, position_embedding_type=embeddings, num_hidden_layers=1)
    names = {name.split("/")[-1] for name in flat_names(params)}
    assert "time_embeddings" not in names
    assert ("position_embeddings" in names) == (embeddings == "space")
    pixel_values = pixels(3, 2, 4)
    assert_same_tokens(run_flax(model, params, pixel_values), in_numpy(model, params, pixel_values))


@pytest.mark.usefixtures("x64")
def test_the_order_matters() -> None:
    """The three orders, of the same parameters, differ by more than rounding."""
    logits = []
    for order in ("time_space", "space_time", "parallel"):
        model, params = tiny_flax("divided_space_time", attention_order=order)
        logits.append(run_flax(model, params, pixels(3, 2, 4)).logits)
    assert min(relative_difference(logits[i], logits[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3


def test_order_is_of_divided_attention_alone() -> None:
    for kind in ("joint_space_time", "space_only", *NEW):
        with pytest.raises(ConfigError, match="divided_space_time attention alone"):
            TimesformerConfig(attention_type=kind, attention_order="parallel")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="attention_order must be one of time_space, space_time, parallel"):
        TimesformerConfig(attention_order="space")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="position_embedding_type must be one of space_time, space, none"):
        TimesformerConfig(position_embedding_type="time")  # type: ignore[arg-type]


# With the 174 classes of Something-Something V2 they are what the paper's table 1 gives, to the digit.
COUNTS = {  # attention type: without a classifier, with 400 classes, in the paper
    "space_only": (85_798_656, 86_106_256, "85.9"),
    "joint_space_time": (85_804_800, 86_112_400, "85.9"),
    "divided_space_time": (121_258_752, 121_566_352, "121.4"),
    "sparse_local_global": (121_258_752, 121_566_352, "121.4"),
    "axial": (156_712_704, 157_020_304, "156.8"),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_parameters_are_the_papers(kind: Any) -> None:
    def count(model: Any) -> int:
        clip = jax.ShapeDtypeStruct((1, 8, 224, 224, 3), jnp.float32)
        params = jax.eval_shape(model.init, jax.random.key(0), clip)["params"]
        table = mapping_table(model.config, head=model.has_head)
        assert {"/".join(entry.path): entry.shape for entry in table} == {
            name: leaf.shape for name, leaf in flat_names(params).items()
        }
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    bare, with_400, paper = COUNTS[kind]
    config = TimesformerConfig(attention_type=kind, num_labels=400)
    assert count(TimesformerModel(config)) == bare
    assert count(TimesformerForVideoClassification(config)) == with_400
    assert f"{count(TimesformerForVideoClassification(config.replace(num_labels=174))) / 1e6:.1f}" == paper


def test_steps_that_cls_needs() -> None:
    def names(**fields: Any) -> list[str]:
        return [step.attention for step in steps_for_cls(TimesformerConfig(**fields))]

    assert names() == ["temporal_attention", "attention"]
    assert names(attention_order="space_time") == names(attention_order="parallel") == ["attention"]
    assert names(attention_type="axial") == ["temporal_attention", "width_attention", "attention"]
    assert names(attention_type="sparse_local_global") == ["local_attention", "attention"]
    turned = attention_steps(TimesformerConfig(attention_order="space_time"))
    assert [step.attention for step in turned] == ["attention", "temporal_attention"]
