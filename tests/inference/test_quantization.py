"""Kernels in eight bits: how far the logits move, and what is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_flax import COLUMNS, FRAMES, ROWS, tiny_flax

from timesformer_jax import VideoClassifier, VideoProcessor
from timesformer_jax.inference.folding import fold_for_inference, folded_shapes
from timesformer_jax.inference.quantization import LARGEST, SCALES, apply, kernel_inputs, quantize, quantized_shapes

TYPES = ("divided_space_time", "joint_space_time", "space_only", "sparse_local_global", "axial")
PROCESSOR = VideoProcessor(size=8, crop_size=(4 * ROWS, 4 * COLUMNS))


def frames(count: int = 6) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, FRAMES, 4 * ROWS, 4 * COLUMNS, 3), np.uint8)


@pytest.mark.parametrize("attention_type", ["divided_space_time", "sparse_local_global", "axial"])
def test_the_error_is_bounded(attention_type: str) -> None:
    model, params = tiny_flax(attention_type, dtype=jnp.float32)
    exact = VideoClassifier.from_model(model, params, PROCESSOR, batch_size=6).forward(frames())
    rounded = VideoClassifier.from_model(model, params, PROCESSOR, weights="int8", batch_size=6).forward(frames())
    difference = np.abs(rounded - exact).max() / np.abs(exact).max()
    # Each weight is off by up to half of 1/127 of its channel's largest, a few tenths of a percent of a layer's output;
    # random models, the worst there are, add that up over their layers.
    assert 0 < difference < 0.05


def test_each_weight_is_within_half_a_step() -> None:
    model, params = tiny_flax("divided_space_time", dtype=jnp.float32)
    _, folded = fold_for_inference(model, params, PROCESSOR)
    variables = quantize(folded)
    seen = 0

    def check(kept: dict, scales: dict, original: dict, path: tuple[str, ...]) -> None:
        nonlocal seen
        for name, value in original.items():
            if not isinstance(value, dict):
                np.testing.assert_array_equal(kept[name], value)
            elif "kernel" in value:
                seen += 1
                scale, inputs = np.asarray(scales[name]["scale"]), kernel_inputs((*path, name), value["kernel"])
                kernel = np.asarray(kept[name]["kernel"])
                assert kernel.dtype == np.int8
                assert np.abs(kernel.astype(int)).max(axis=tuple(range(inputs))).min() == LARGEST
                assert scale.shape == value["bias"].shape
                assert np.all(np.abs(kernel * scale - value["kernel"]) <= scale * 0.5001)
                np.testing.assert_array_equal(kept[name]["bias"], value["bias"])
            else:
                check(kept[name], scales[name], value, (*path, name))

    check(variables["params"], variables[SCALES], {k: v for k, v in folded.items() if k != "embeddings"}, ())
    assert seen == 2 * 6 + 1 + 1  # a query and a key_value in the last layer; the classifier


@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("num_labels", [7, 0])
def test_shapes_are_known_before_the_parameters(attention_type: str, dtype: jnp.dtype, num_labels: int) -> None:
    """What is compiled ahead is what is called: other shapes or types would compile in vain."""
    model, params = tiny_flax(attention_type, dtype=jnp.float32, num_labels=num_labels)
    model = model.clone(dtype=dtype)
    module, folded = fold_for_inference(model, params, PROCESSOR)

    def shapes_of(tree: object) -> object:
        return jax.tree.map(lambda leaf: (leaf.shape, jnp.dtype(leaf.dtype)), tree)

    assert shapes_of(folded_shapes(module)) == shapes_of(folded)
    assert shapes_of(quantized_shapes(folded_shapes(module))) == shapes_of(quantize(folded))


def test_memory_falls() -> None:
    """In the compiled program, too: kernels are widened one after the other, not all at once."""
    sizes = {"num_hidden_layers": 5, "intermediate_size": 8192, "num_frames": 1}
    model, params = tiny_flax("space_only", dtype=jnp.float32, **sizes)
    module, folded = fold_for_inference(model, params, PROCESSOR)
    variables = quantize(folded)

    def arguments(tree: dict) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    def temporaries(tree: dict) -> int:
        compiled = jax.jit(apply, static_argnums=0).lower(module, tree, frames(1)[:, :1]).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert arguments(variables) < 0.3 * arguments(folded)
    assert temporaries(variables) - temporaries({"params": folded}) < 0.6 * arguments(folded)
