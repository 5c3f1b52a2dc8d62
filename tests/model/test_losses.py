"""Which loss labels ask for, and its value, against Transformers' own forward."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytorch import torch
from reference import BATCH, TINY, assert_close, clip, tiny_reference, to_torch

from timesformer_jax.model.losses import classification_loss, problem_type_of

CLASSES = TINY["num_labels"]
INDICES = np.array([3, 6])
TARGETS = np.resize([1.0, 0.0, 0.0, 1.0, 0.3], (BATCH, CLASSES))

# name: (num_labels, problem_type, labels)
CASES: dict[str, tuple[int, str | None, np.ndarray]] = {
    "indices": (CLASSES, None, INDICES),
    "one-ignored": (CLASSES, None, np.array([-100, 6])),
    "all-ignored": (CLASSES, None, np.array([-100, -100])),
    "targets": (CLASSES, None, TARGETS),
    "one-label": (1, None, np.array([0.7, -1.9])),
    "one-label-column": (1, None, np.array([[0.7], [-1.9]])),
    "one-label-asked-for": (1, "regression", np.array([0.7, -1.9])),
    "regression": (CLASSES, "regression", 5 * TARGETS),
    "single-label": (CLASSES, "single_label_classification", INDICES),
    "multi-label": (CLASSES, "multi_label_classification", TARGETS),
    "one-of-one": (1, "multi_label_classification", np.array([[1.0], [0.0]])),
    "two-classes": (2, None, np.array([1, 0])),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("num_labels", "problem_type", "labels"), CASES.values(), ids=CASES.keys())
def test_equals_transformers(num_labels, problem_type, labels):
    reference = tiny_reference(num_labels=num_labels, problem_type=problem_type)
    pixels = to_torch(clip(reference.config))
    with torch.no_grad():
        outputs = reference(pixels, labels=torch.from_numpy(labels))
    logits = outputs.logits.numpy()
    expected_type = reference.config.problem_type  # which it writes down
    if problem_type is None:
        assert problem_type_of(num_labels, jnp.asarray(labels)) == expected_type
    loss = classification_loss(jnp.asarray(logits), jnp.asarray(labels), problem_type)
    if outputs.loss.isnan():
        assert np.isnan(loss), "the mean over no label is not a number in the reference"
    else:
        # One mean over logits that are the reference's own.
        assert_close(loss, outputs.loss, 1e-14, f"losses ({expected_type})")


@pytest.mark.parametrize(
    ("num_labels", "dtype", "expected"),
    [
        (1, "float32", "regression"),
        (1, "int32", "regression"),
        (2, "int32", "single_label_classification"),
        (7, "int32", "single_label_classification"),
        (7, "float32", "multi_label_classification"),
        (7, "bfloat16", "multi_label_classification"),
        (7, "bool", "multi_label_classification"),
    ],
)
def test_labels_choose_the_loss(num_labels, dtype, expected):
    assert problem_type_of(num_labels, jnp.zeros((2, num_labels), dtype)) == expected


def test_large_logits_do_not_overflow():
    logits = jnp.asarray([[1e4, -1e4], [-1e4, 1e4]], jnp.float32)
    assert classification_loss(logits, jnp.asarray([0, 1])) == 0
    assert classification_loss(logits, jnp.asarray([1, 0])) == 2e4
    assert classification_loss(logits, jnp.eye(2)) == 0
    assert classification_loss(logits, 1 - jnp.eye(2)) == 1e4
    gradient = jax.grad(classification_loss)(logits, jnp.asarray([1, 0]))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("label", [7, -1, -99, 2**31 - 1])
def test_a_label_that_is_no_class_gives_nan(label):
    """PyTorch raises an error; under jit only the number can tell."""
    logits = jnp.zeros((2, CLASSES), jnp.float32)
    assert np.isnan(jax.jit(classification_loss)(logits, jnp.asarray([0, label])))


def test_gradient_of_ignored_rows_is_zero():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, CLASSES)), jnp.float32)
    gradient = jax.grad(classification_loss)(logits, jnp.asarray([-100, 2]))
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.abs(gradient[1]).max() > 0.1


def test_losses_of_bfloat16_logits_are_float32():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, CLASSES)), jnp.bfloat16)
    for labels in (jnp.asarray(INDICES), jnp.asarray(TARGETS, jnp.bfloat16)):
        loss = classification_loss(logits, labels)
        assert loss.dtype == jnp.float32
        assert loss == classification_loss(logits.astype(jnp.float32), labels)


@pytest.mark.parametrize(
    ("labels", "problem_type", "message"),
    [
        (np.zeros((2, 7), np.int32), "single_label_classification", r"shape \(2,\) for single_label.*\(2, 7\)"),
        (np.zeros(3, np.int32), None, r"shape \(2,\) for single_label.*\(3,\)"),
        (np.zeros(2, np.float32), "single_label_classification", "class indices .integers.*float32"),
        (np.zeros(2, np.float32), None, r"shape \(2, 7\) for multi_label.*\(2,\)"),
        (np.zeros(2, np.float32), "regression", r"shape \(2, 7\) for regression.*\(2,\)"),
        (np.zeros((7, 2), np.float32), "multi_label_classification", r"shape \(2, 7\) for multi_label.*\(7, 2\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, problem_type: Any, message):
    with pytest.raises(ValueError, match=message):
        classification_loss(jnp.zeros((2, 7)), jnp.asarray(labels), problem_type)
