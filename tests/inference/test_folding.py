"""The folded model against the plain one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytorch import torch
from reference import ATTENTION_TYPES, QUICK_COMPILE, assert_close, clip, tiny_reference, to_flax
from tiny_flax import tiny_flax

from timesformer_jax import VideoProcessor
from timesformer_jax.inference.folding import fold_for_inference, folded_shapes

# Mean and deviation differ from channel to channel, and no mean is a whole number of levels.
PROCESSOR = VideoProcessor(image_mean=(0.45, 0.3, 0.61), image_std=(0.2, 0.3, 0.25))


def run(model: Any, params: Any, frames: Any) -> Any:
    outputs = jax.jit(model.apply, compiler_options=QUICK_COMPILE)({"params": params}, frames)
    return getattr(outputs, "logits", outputs)


def random_frames(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 5, 12, 12, 3), np.uint8)


CASES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "plain": ({}, {}),
    "no-qkv-bias-other-sizes": ({"qkv_bias": False}, {"num_frames": 3, "height": 8, "width": 16}),
    "rectangles": ({"image_size": (12, 8), "patch_size": (4, 2), "num_labels": 0}, {}),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize(("changes", "sizes"), CASES.values(), ids=CASES.keys())
def test_logits_are_those_of_the_plain_model(attention_type, changes, sizes):
    reference = tiny_reference(attention_type=attention_type, **changes)
    model, params = to_flax(reference)
    before = jax.tree.map(np.array, params)
    pixel_values = clip(reference.config, **sizes)
    folded, folded_params = fold_for_inference(model, params)
    assert_close(run(folded, folded_params, pixel_values), run(model, params, pixel_values), 1e-12, "logits")
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, params, before))), "the parameters given were changed"
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), folded_params)
    assert shapes == folded_shapes(folded)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "changes",
    [
        {"attention_type": "axial"},
        {"attention_type": "sparse_local_global", "position_embedding_type": "none"},
        {"attention_type": "divided_space_time", "attention_order": "space_time"},
        {"attention_type": "divided_space_time", "attention_order": "parallel", "position_embedding_type": "space"},
    ],
    ids=lambda changes: "-".join(changes.values()),
)
def test_other_schemes_and_orders(changes):
    """On an odd number of frames and rows; steps of the last layer that CLS does not depend on are gone."""
    model, params = tiny_flax(**changes)
    pixel_values = np.random.default_rng(0).normal(size=(2, 3, 12, 16, 3))
    folded, folded_params = fold_for_inference(model, params)
    assert_close(run(folded, folded_params, pixel_values), run(model, params, pixel_values), 1e-12, "logits")
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), folded_params)
    assert shapes == folded_shapes(folded)
    assert ("temporal_attention" in folded_params["layer_1"]) == (changes["attention_type"] == "axial")


@pytest.mark.usefixtures("x64")
def test_uint8_frames_are_normalized_inside():
    model, params = to_flax(tiny_reference(num_hidden_layers=1))
    frames = random_frames()
    pixel_values = (frames * PROCESSOR.rescale_factor - np.array(PROCESSOR.image_mean)) / np.array(PROCESSOR.image_std)
    folded, folded_params = fold_for_inference(model, params, PROCESSOR)
    assert folded.pixel_centre == (115, 76, 156)  # 255 times the means, rounded
    assert_close(run(folded, folded_params, frames), run(model, params, pixel_values), 1e-12, "logits")


@pytest.mark.gpu
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_float32(attention_type):
    model, params = to_flax(tiny_reference(attention_type=attention_type, dtype=torch.float32))
    frames = random_frames()
    folded, folded_params = fold_for_inference(model, params, PROCESSOR)
    logits = run(folded, folded_params, frames)
    assert logits.dtype == jnp.float32
    pixel_values = PROCESSOR.rescale_and_normalize(frames)
    assert_close(logits, run(model, params, pixel_values), 2e-5, "logits")  # rounding, through all layers


@pytest.mark.gpu
def test_bfloat16_is_no_worse_than_unfolded():
    """Bytes less a whole number are exact in bfloat16: a mean in the bias alone would lose them a bit or more."""
    model, params = to_flax(tiny_reference(dtype=torch.float32))
    half = model.clone(dtype=jnp.bfloat16)
    folded, folded_params = fold_for_inference(half, params, PROCESSOR)
    assert folded_params["layer_0"]["mlp"]["output"]["kernel"].dtype == jnp.bfloat16
    frames = np.concatenate([random_frames(seed) for seed in range(8)])
    pixel_values = PROCESSOR.rescale_and_normalize(frames)
    exact = run(model, params, pixel_values)
    found = run(folded, folded_params, frames), run(half, params, pixel_values)
    ours, unfolded = (np.sqrt(np.mean((logits - exact) ** 2)) for logits in found)
    assert ours <= 1.5 * unfolded


def test_what_can_not_be_folded_is_refused():
    model, params = to_flax(tiny_reference(num_channels=1, dtype=torch.float32))
    with pytest.raises(ValueError, match="num_channels = 1"):
        fold_for_inference(model, params, PROCESSOR)
