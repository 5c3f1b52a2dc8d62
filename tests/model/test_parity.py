"""The model's numbers against Transformers, and against an independent rewrite of the paper, in float64."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy_timesformer
import pytest
from pytorch import torch
from reference import (
    ATTENTION_TYPES,
    FLOAT64_TOLERANCE,
    check_outputs,
    clip,
    relative_difference,
    run_flax,
    run_reference,
    tiny_reference,
    to_flax,
    to_torch,
)

from timesformer_jax.activations import ACTIVATIONS
from timesformer_jax.checkpoints.mapping import mapping_table, set_leaf

pytestmark = pytest.mark.usefixtures("x64")


def check_parity(reference: Any, pixel_values: np.ndarray) -> None:
    model, params = to_flax(reference)
    with torch.no_grad():
        expected = run_reference(reference, pixel_values)
    check_outputs(run_flax(model, params, pixel_values), expected)


def test_helper_computes_what_transformers_does():
    """`run_reference` calls Transformers' modules one by one; where their own forward is right, it is the same."""
    for attention_type in ("divided_space_time", "joint_space_time"):
        reference = tiny_reference(attention_type=attention_type)
        pixel_values = clip(reference.config)
        with torch.no_grad():
            ours = run_reference(reference, pixel_values)
            theirs = reference(to_torch(pixel_values), output_hidden_states=True, output_attentions=True)
        assert torch.equal(ours.logits, theirs.logits)
        assert all(map(torch.equal, ours.hidden_states, theirs.hidden_states))
        assert all(torch.equal(a.reshape(b.shape), b) for a, b in zip(ours.attentions, theirs.attentions, strict=True))


GRID: dict[str, dict[str, Any]] = {
    **{attention_type: {"attention_type": attention_type} for attention_type in ATTENTION_TYPES},
    **{
        f"{attention_type}-no-qkv-bias": {"attention_type": attention_type, "qkv_bias": False}
        for attention_type in ATTENTION_TYPES
    },
    **{
        f"{attention_type}-rectangles": {"attention_type": attention_type, "image_size": (12, 8), "patch_size": (4, 2)}
        for attention_type in ATTENTION_TYPES
    },
    "one-head": {"num_attention_heads": 1},
    "one-layer": {"num_hidden_layers": 1},
    "four-layers": {"num_hidden_layers": 4},
    "one-patch": {"image_size": 4},
    "one-channel": {"num_channels": 1},
    "large-epsilon": {"layer_norm_eps": 0.3},
    "square-mlp": {"intermediate_size": 24},
}


@pytest.mark.gpu
@pytest.mark.parametrize("changes", GRID.values(), ids=GRID.keys())
def test_equals_transformers(changes):
    reference = tiny_reference(**changes)
    check_parity(reference, clip(reference.config))


@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
def test_equals_transformers_with_activation(hidden_act):
    reference = tiny_reference(hidden_act=hidden_act)
    model, params = to_flax(reference)
    pixel_values = clip(reference.config)
    with jax.disable_jit():  # step by step, since all but the activation is compiled already
        actual = model.apply(
            {"params": params}, jnp.asarray(pixel_values), output_hidden_states=True, output_attentions=True
        )
    with torch.no_grad():
        check_outputs(actual, run_reference(reference, pixel_values))


def random_config(seed: int) -> dict[str, Any]:
    """Any config at all; over twelve seeds every number of frames from 1 to 12 once."""
    rng = np.random.default_rng(seed)
    heads, patch = int(rng.integers(1, 8)), int(rng.integers(1, 6))
    return {
        "num_frames": 1 + seed % 12,
        "attention_type": str(rng.choice(ATTENTION_TYPES)),
        "patch_size": patch,
        "image_size": patch * int(rng.integers(1, 5)),
        "num_channels": int(rng.integers(1, 5)),
        "num_attention_heads": heads,
        "hidden_size": heads * int(rng.integers(3, 9)),
        "intermediate_size": int(rng.integers(3, 50)),
        "num_hidden_layers": int(rng.integers(1, 5)),
        "num_labels": int(rng.integers(3, 12)),
        "qkv_bias": bool(rng.integers(2)),
        "hidden_act": str(rng.choice(list(ACTIVATIONS))),
        "layer_norm_eps": float(10 ** rng.uniform(-12, -1)),
    }


@pytest.mark.parametrize("seed", range(12))
def test_equals_transformers_with_random_config(seed):
    config = random_config(seed)
    try:
        reference = tiny_reference(seed=seed, **config)
        check_parity(reference, clip(reference.config, seed=seed, batch=1 + seed % 3))
    except AssertionError as error:
        raise AssertionError(f"{error}\nwith {config}") from None


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_bare_model_equals_transformers(attention_type):
    reference = tiny_reference(head=False, attention_type=attention_type)
    check_parity(reference, clip(reference.config))


def test_without_classes_the_logits_are_the_cls_token():
    reference = tiny_reference(num_labels=0)
    model, params = to_flax(reference)
    with torch.no_grad():
        expected = run_reference(reference, clip(reference.config))
    assert torch.equal(expected.logits, expected.last_hidden_state[:, 0])
    check_outputs(run_flax(model, params, clip(reference.config)), expected)


# The config says 5 frames of 12 x 12 pixels, patches of 4.
OTHER_SIZES: dict[str, dict[str, int]] = {
    "config-size": {},
    "1-frame": {"num_frames": 1},
    "4-frames": {"num_frames": 4},
    "12-frames-smaller": {"num_frames": 12, "height": 8, "width": 8},
    "larger": {"height": 20, "width": 20},
    "wide-8-frames": {"num_frames": 8, "height": 8, "width": 28},
    "tall-3-frames": {"num_frames": 3, "height": 20, "width": 12},
}


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize("sizes", OTHER_SIZES.values(), ids=OTHER_SIZES.keys())
def test_other_sizes_equal_transformers_and_numpy(attention_type, sizes):
    reference = tiny_reference(attention_type=attention_type)
    model, params = to_flax(reference)
    pixel_values = clip(reference.config, **sizes)
    actual = run_flax(model, params, pixel_values)
    with torch.no_grad():
        check_outputs(actual, run_reference(reference, pixel_values))
    check_outputs(actual, in_numpy(reference, pixel_values))


# What Transformers can't do: it takes the grid of its embeddings to be square, fails when the input is one patch wide,
# and resizes only when the number of patches changes, not when 4 x 4 become 2 x 8.
NUMPY_ONLY: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "one-patch": ("divided_space_time", {}, {"height": 4, "width": 4}),
    "one-column": ("divided_space_time", {}, {"height": 16, "width": 4}),
    "same-number-of-patches": ("divided_space_time", {"image_size": 8, "patch_size": 2}, {"height": 4, "width": 16}),
    "turned": ("space_only", {"image_size": (12, 8)}, {"height": 8, "width": 12}),
    **{
        attention_type: (
            attention_type,
            {"image_size": (12, 8), "patch_size": (4, 2), "qkv_bias": False},
            {"num_frames": 3, "height": 8, "width": 10},
        )
        for attention_type in ATTENTION_TYPES
    },
}


@pytest.mark.parametrize(("attention_type", "changes", "sizes"), NUMPY_ONLY.values(), ids=NUMPY_ONLY.keys())
def test_rectangles_equal_numpy(attention_type, changes, sizes):
    reference = tiny_reference(attention_type=attention_type, **changes)
    model, params = to_flax(reference)
    pixel_values = clip(reference.config, **sizes)
    check_outputs(run_flax(model, params, pixel_values), in_numpy(reference, pixel_values))


def in_numpy(reference: Any, pixel_values: np.ndarray) -> numpy_timesformer.NumpyOutput:
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    return numpy_timesformer.run(tensors, reference.config, pixel_values)


def test_exchanging_two_tensors_shows():
    """Whichever two tensors of one shape the mapping mixed up, parity would fail, and not by a hair."""
    reference = tiny_reference(qkv_bias=True)
    model, _ = to_flax(reference)
    pixel_values = clip(reference.config, batch=1)
    with torch.no_grad():
        expected = run_reference(reference, pixel_values)
    expected = jax.tree.map(np.asarray, (expected.logits, expected.hidden_states, expected.attentions))

    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    table = mapping_table(model.config)

    def difference(state: dict[str, np.ndarray]) -> float:
        actual = run_flax(model, to_params(table, state), pixel_values)
        actual = (actual.logits, actual.hidden_states, actual.attentions)
        return max(jax.tree.leaves(jax.tree.map(relative_difference, actual, expected)))

    assert difference(state) <= FLOAT64_TOLERANCE
    pairs = [(a, b) for a, b in itertools.combinations(state, 2) if state[a].shape == state[b].shape]
    # ... and whole entries of the table, all layers at once.
    layered = [entry.name for entry in table if entry.layers is not None]
    pairs += [
        (a, b) for a, b in itertools.combinations(layered, 2) if state[a.format(0)].shape == state[b.format(0)].shape
    ]
    assert len(pairs) > 300
    unseen = []
    for a, b in pairs:
        names = {(a.format(i), b.format(i)) for i in range(model.config.num_hidden_layers)}
        exchanged = state | {x: state[y] for pair in names for x, y in (pair, pair[::-1])}
        if difference(exchanged) < 1e6 * FLOAT64_TOLERANCE:
            unseen.append((a, b))
    assert not unseen


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_transposing_a_square_tensor_shows(attention_type):
    """No shape guards these."""
    reference = tiny_reference(attention_type=attention_type)
    model, params = to_flax(reference)
    pixel_values = clip(reference.config, batch=1)
    with torch.no_grad():
        expected = run_reference(reference, pixel_values).logits
    state = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    square = [name for name, tensor in state.items() if tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]]
    assert len(square) == (6 if attention_type == "divided_space_time" else 2)
    for name in square:
        params = to_params(mapping_table(model.config), state | {name: state[name].T})
        assert relative_difference(run_flax(model, params, pixel_values).logits, expected) > 1e6 * FLOAT64_TOLERANCE, (
            name
        )


def to_params(table: Any, state: dict[str, np.ndarray]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for entry in table:
        leaves = [entry.to_flax(state[name]) for name in entry.names]
        set_leaf(params, entry.path, leaves[0] if entry.layers is None else np.stack(leaves))
    return params
