"""Relevance for a class: against whole matrices whose gradients are PyTorch's."""

from typing import Any

import numpy as np
import numpy_timesformer
import pytest
from numpy_rollout import cls_row, steps
from pytorch import torch
from reference import clip, run_reference, tiny_reference, to_flax, torch_names
from tiny_flax import tiny_flax

from timesformer_jax import TimesformerModel
from timesformer_jax.interpret.relevance import class_relevance

pytestmark = pytest.mark.usefixtures("quick_compile")


def weighted_attentions(model: Any, pixel_values: np.ndarray, classes: list[int]) -> tuple[Any, Any, Any]:
    """Mean over heads of max(0, gradient * probabilities): spatial (layers, b, t, s, s), temporal; and the logits."""
    caught: dict[str, list[torch.Tensor]] = {"attention": [], "temporal_attention": []}
    hooks = []
    for layer in model.base_model.encoder.layer:
        for name, tensors in caught.items():
            if hasattr(layer, name):
                module = getattr(layer, name).attention.attn_drop
                hooks.append(module.register_forward_hook(lambda *call, tensors=tensors: tensors.append(call[2])))
    logits = run_reference(model, pixel_values).logits
    assert logits is not None
    for hook in hooks:
        hook.remove()
    chosen = logits[range(len(classes)), classes].sum()

    def weighted(tensors: list[torch.Tensor]) -> list[np.ndarray]:
        gradients = torch.autograd.grad(chosen, tensors, retain_graph=True)
        both = [(a * g).clamp(min=0).mean(dim=1) for a, g in zip(tensors, gradients, strict=True)]
        return [matrix.detach().unflatten(0, (len(classes), -1)).numpy() for matrix in both]

    temporal = weighted(caught["temporal_attention"]) if caught["temporal_attention"] else None
    return weighted(caught["attention"]), temporal, logits.detach().numpy()


@pytest.mark.usefixtures("x64")
# Joint attention takes the same path as space-only.
@pytest.mark.parametrize(
    "attention_type",
    ["divided_space_time", "space_only", pytest.param("joint_space_time", marks=pytest.mark.slow)],
)
def test_relevance_is_that_of_whole_matrices_with_pytorchs_gradients(attention_type: str) -> None:
    reference = tiny_reference(attention_type=attention_type)
    pixel_values, classes, frames = clip(reference.config), [3, 5], reference.config.num_frames
    space, time, logits = weighted_attentions(reference, pixel_values, classes)
    model, params = to_flax(reference)
    relevance, own_logits = class_relevance(model, params, pixel_values, classes)
    np.testing.assert_allclose(own_logits, logits, rtol=1e-10)
    for i in range(len(classes)):
        product = None
        for layer, matrices in enumerate(space):
            one = matrices[i][0] if attention_type == "joint_space_time" else matrices[i]
            for matrix in steps(attention_type, one, None if time is None else time[layer][i], shared=False):
                passing = np.eye(len(matrix)) + matrix
                product = passing if product is None else passing @ product
        _, expected = cls_row(attention_type, product, frames)
        assert expected.max() > 0.01
        np.testing.assert_allclose(relevance[i].reshape(frames, -1), expected, rtol=1e-10)

    likeliest = class_relevance(model, params, pixel_values, logits.argmax(axis=1))[0]
    np.testing.assert_array_equal(class_relevance(model, params, pixel_values)[0], likeliest)
    assert not np.allclose(likeliest, relevance)
    with pytest.raises(ValueError, match="one index below 7 for each clip"):
        class_relevance(model, params, pixel_values, [3, 7])


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
@pytest.mark.parametrize("attention_type", ["axial", "sparse_local_global"])
def test_other_schemes(attention_type: str) -> None:
    """Against whole matrices, whose gradients are differences: each probability is moved a little, in numpy."""
    model, params = tiny_flax(attention_type, num_attention_heads=1, num_hidden_layers=1)
    pixel_values, target = np.random.default_rng(0).normal(size=(1, 2, 8, 12, 3)), 3
    tensors = torch_names(params, model.config)
    expected = numpy_timesformer.run(tensors, model.config, pixel_values)
    relevance, logits = class_relevance(model, params, pixel_values, [target])
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-10)

    def logit(name: str, added: np.ndarray) -> float:
        moved = tensors | {f"timesformer.encoder.layer.0.{name}.added": added}
        return float(numpy_timesformer.run(moved, model.config, pixel_values).logits[0, target])

    product: Any = np.eye(1 + 6 * 2)
    for name, (probabilities,) in expected.whole.items():
        matrix, slope, step = probabilities[0], np.zeros_like(probabilities[0]), 1e-5
        for place in np.argwhere(matrix[0]):
            added = np.zeros_like(matrix)
            added[0, *place] = step
            slope[0, *place] = (logit(name, added) - logit(name, -added)) / (2 * step)
        product = (np.eye(len(product)) + np.maximum(matrix * slope, 0)[0]) @ product
    _, row = cls_row(attention_type, product, 2)
    # Central differences: off by the square of the step, and by 1e-16 / step.
    np.testing.assert_allclose(relevance[0].reshape(2, -1), row, rtol=1e-5, atol=1e-8 * row.max())
    assert (row > 1e-3 * row.max()).sum() >= 4


def test_a_model_without_classes_is_refused() -> None:
    model, params = tiny_flax("divided_space_time", TimesformerModel, dtype=np.float32)
    with pytest.raises(ValueError, match="no classifier"):
        class_relevance(model, params, np.zeros((1, 3, 8, 16, 3), np.float32))
