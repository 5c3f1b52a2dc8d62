"""The model's numbers against what record_reference.py wrote, where PyTorch or this Transformers is not installed.

TIMESFORMER_RECORDED names its directories, several separated as in PATH.
"""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from reference import QUICK_COMPILE, assert_close, check_outputs, run_flax, torch_names

from timesformer_jax import TimesformerForVideoClassification

pytestmark = pytest.mark.usefixtures("x64")

RECORDED = [Path(name) for name in os.environ.get("TIMESFORMER_RECORDED", "").split(os.pathsep) if name]
CASES = {f"{root.name}-{case.parent.name}": case.parent for root in RECORDED for case in root.glob("*/expected.npz")}
WITH_LOSS = {name: case for name, case in CASES.items() if "loss" in np.load(case / "expected.npz")}
FORWARD = {name: case for name, case in CASES.items() if name not in WITH_LOSS}


def load(case: Path) -> tuple[Any, Any, dict[str, np.ndarray]]:
    model, params = TimesformerForVideoClassification.from_pretrained(case, dtype="float64", param_dtype="float64")
    with np.load(case / "expected.npz") as file:
        return model, params, dict(file)


def layers(expected: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, ...] | None:
    found = [expected[key] for key in sorted(expected) if key.startswith(f"{name}.")]
    assert len(found) < 10, "sorted as text"
    return tuple(found) or None


@pytest.mark.skipif(not CASES, reason="TIMESFORMER_RECORDED names no directory of tests/record_reference.py")
@pytest.mark.parametrize("case", FORWARD.values(), ids=FORWARD.keys())
def test_equals_what_was_recorded(case: Path) -> None:
    model, params, expected = load(case)
    names = ("hidden_states", "attentions", "temporal_attentions")
    outputs = SimpleNamespace(logits=expected["logits"], **{name: layers(expected, name) for name in names})
    check_outputs(run_flax(model, params, expected["pixel_values"]), outputs)


@pytest.mark.skipif(not CASES, reason="TIMESFORMER_RECORDED names no directory of tests/record_reference.py")
@pytest.mark.parametrize("case", WITH_LOSS.values(), ids=WITH_LOSS.keys())
def test_gradients_equal_what_was_recorded(case: Path) -> None:
    model, params, expected = load(case)

    def loss_of(params: Any) -> Any:
        return model.apply({"params": params}, expected["pixel_values"], expected["labels"]).loss

    loss, gradients = jax.jit(jax.value_and_grad(loss_of), compiler_options=QUICK_COMPILE)(params)
    # As in test_training_parity.py: the value is rounded like the logits, a gradient is a longer sum.
    assert_close(loss, expected["loss"], 1e-12, "losses")
    gradients = torch_names(gradients, model.config)
    assert len(gradients) > 20
    for name, gradient in gradients.items():
        assert_close(gradient, expected[f"gradient.{name}"], 1e-10, f"gradients of {name}")
