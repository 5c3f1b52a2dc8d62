"""Writes what PyTorch's reference computes, for parity tests without PyTorch or with another version of Transformers.

    python tests/record_reference.py recorded                      # where torch and transformers are (4 or 5)
    TIMESFORMER_RECORDED=recorded python -m pytest tests/model/test_recorded_parity.py         # where JAX is

Each case is a directory with a checkpoint in float64 as Transformers saves it, and with expected.npz: the pixel values,
all that the model returns, and for the losses the labels, the loss and the gradient of every parameter.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from pytorch import torch, transformers
from torch_reference import ATTENTION_TYPES, BATCH, TINY, clip, run_reference, tiny_reference, to_torch

# name: (settings of the model, sizes of the input)
FORWARD: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    **{f"{scheme}": ({"attention_type": scheme}, {}) for scheme in ATTENTION_TYPES},
    **{f"{scheme}-no-qkv-bias": ({"attention_type": scheme, "qkv_bias": False}, {}) for scheme in ATTENTION_TYPES},
    **{
        f"{scheme}-{name}": ({"attention_type": scheme}, sizes)
        for scheme in ATTENTION_TYPES
        for name, sizes in {
            "12-frames-smaller": {"num_frames": 12, "height": 8, "width": 8},
            "larger": {"height": 20, "width": 20},
            "wide-8-frames": {"num_frames": 8, "height": 8, "width": 28},
        }.items()
    },
    "one-head": ({"num_attention_heads": 1}, {}),
    "four-layers": ({"num_hidden_layers": 4}, {}),
    "one-channel": ({"num_channels": 1}, {}),
    "large-epsilon": ({"layer_norm_eps": 0.3}, {}),
    "relu": ({"hidden_act": "relu"}, {}),
}

CLASSES = TINY["num_labels"]

# name: (settings of the model, labels)
LOSSES: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    **{f"cross-entropy-{scheme}": ({"attention_type": scheme}, np.array([3, 6])) for scheme in ATTENTION_TYPES[:2]},
    "squared-error-one-label": ({"num_labels": 1}, np.array([0.7, -1.9])),
    "squared-error": (
        {"problem_type": "regression"},
        np.linspace(-2, 3, BATCH * CLASSES).reshape(BATCH, CLASSES),
    ),
    "binary-cross-entropy": (
        {"problem_type": "multi_label_classification"},
        np.resize([1.0, 0.0, 0.0, 1.0, 0.3], (BATCH, CLASSES)),
    ),
}


def outputs(reference: Any, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
    """All that the reference returns, by the names of this package's outputs; layers are numbered."""
    with torch.no_grad():
        found = run_reference(reference, pixel_values)
    arrays = {"logits": found.logits.numpy()}
    for name in ("hidden_states", "attentions", "temporal_attentions"):
        arrays |= {f"{name}.{i}": layer.numpy() for i, layer in enumerate(getattr(found, name) or ())}
    return arrays


def loss_and_gradients(reference: Any, pixel_values: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The loss of Transformers' own forward, and the gradient of each tensor as `gradient.NAME`."""
    loss = reference(to_torch(pixel_values), labels=torch.from_numpy(labels)).loss
    loss.backward()
    gradients = {f"gradient.{name}": parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    return {"labels": labels, "loss": loss.detach().numpy()} | gradients


def record(directory: Path) -> int:
    """Writes all cases; gives their number."""
    cases: list[tuple[str, dict[str, Any], dict[str, int], np.ndarray | None]] = [
        *((name, settings, sizes, None) for name, (settings, sizes) in FORWARD.items()),
        *((name, settings, {}, labels) for name, (settings, labels) in LOSSES.items()),
    ]
    for name, settings, sizes, labels in cases:
        reference = tiny_reference(**settings)
        pixel_values = clip(reference.config, **sizes)
        expected = {"pixel_values": pixel_values} | outputs(reference, pixel_values)
        if labels is not None:
            expected |= loss_and_gradients(reference, pixel_values, labels)
        reference.save_pretrained(directory / name)
        np.savez(directory / name / "expected.npz", **expected)
    return len(cases)


if __name__ == "__main__":
    print(f"{record(Path(sys.argv[1]))} cases of Transformers {transformers.__version__} are in {sys.argv[1]}")
