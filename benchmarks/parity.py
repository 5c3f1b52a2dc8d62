"""The base model against PyTorch: largest differences in float64, float32 and bfloat16, for each kind of attention.

    python benchmarks/parity.py

The weights are random (every tensor disturbed, so that nothing is zero or one), the clip is random. Differences are
relative to the largest value of PyTorch's result, which is computed in float64 for float64 and in float32 otherwise.
"""

import tempfile
from typing import Any

import jax
import numpy as np
import torch
import transformers

from timesformer_jax import TimesformerForVideoClassification

ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")


def disturbed_model(attention_type: str) -> Any:
    """A base-size model of Transformers with random values in every tensor."""
    torch.manual_seed(0)
    config = transformers.TimesformerConfig(num_labels=400, attention_type=attention_type)
    model = transformers.TimesformerForVideoClassification(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            scale = 1.5 / tensor[0].numel() ** 0.5 if tensor.ndim in (2, 4) and "classifier" not in name else 0.3
            tensor.mul_("norm" in name and "weight" in name).add_(torch.randn_like(tensor) * scale)
    return model


def reference_outputs(model: Any, clip: np.ndarray) -> dict[str, np.ndarray]:
    """Logits and last hidden state of PyTorch; for space-only the frames are averaged as in the paper's code."""
    frames = torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 1, 4, 2, 3))).to(model.dtype)
    with torch.no_grad():
        outputs = model(frames, output_hidden_states=True)
        logits, hidden = outputs.logits, outputs.hidden_states[-1]
        if model.config.attention_type == "space_only":
            logits = model.classifier(model.timesformer.layernorm(hidden.mean(0, keepdim=True))[:, 0])
    return {"logits": logits.numpy(), "last hidden state": hidden.numpy()}


def flax_outputs(directory: str, clip: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """The same of Flax."""
    param_dtype = "float64" if dtype == "float64" else "float32"
    model, params = TimesformerForVideoClassification.from_pretrained(directory, dtype=dtype, param_dtype=param_dtype)
    forward = jax.jit(model.apply, static_argnames="output_hidden_states")
    outputs: Any = forward({"params": params}, clip, output_hidden_states=True)
    return {
        "logits": np.asarray(outputs.logits),
        "last hidden state": np.asarray(outputs.hidden_states[-1], np.float64),
    }


def main() -> None:
    """Prints a table, a row for each attention and type."""
    clip = np.random.default_rng(0).standard_normal((1, 8, 224, 224, 3))
    print(f"{'attention':20} {'type':10} {'logits':>10} {'last hidden state':>18}   same top class")
    for attention_type in ATTENTION_TYPES:
        model = disturbed_model(attention_type)
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            expected = {"float32": reference_outputs(model, clip), "float64": reference_outputs(model.double(), clip)}
            for dtype in ("float64", "float32", "bfloat16"):
                wanted = expected.get(dtype, expected["float32"])
                with jax.enable_x64(dtype == "float64"):
                    found = flax_outputs(directory, clip, dtype)
                differences = {
                    name: np.abs(found[name].reshape(array.shape) - array).max() / np.abs(array).max()
                    for name, array in wanted.items()
                }
                same = found["logits"].argmax() == wanted["logits"].argmax()
                values = f"{differences['logits']:10.1e} {differences['last hidden state']:18.1e}"
                print(f"{attention_type:20} {dtype:10} {values}   {'yes' if same else 'no'}")


if __name__ == "__main__":
    main()
