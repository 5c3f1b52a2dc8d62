"""Runs the same clip through PyTorch and Flax, and tells where and by how much the two differ."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from ..checkpoints.huggingface import has_head, require_known
from ..checkpoints.mapping import Params
from ..checkpoints.tensors import LazyTensor
from ..config import TimesformerConfig
from ..errors import CheckpointError, VerificationError
from ..model.modeling import TimesformerForVideoClassification, TimesformerModel
from ..parameters import BACKBONE

TOLERANCE = 2e-5
"""Largest difference that float32 explains, relative to the largest value: rounding (6e-8 a step) over some hundred
dependent steps. PyTorch itself differs by about as much between its float32 and its float64 result."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference between the two models in one output.

    Attributes:
        name: which output it is.
        largest_difference: the largest absolute difference.
        largest_value: the largest absolute value of PyTorch's output.
    """

    name: str
    largest_difference: float
    largest_value: float

    @property
    def relative(self) -> float:
        """The difference as a part of the largest value."""
        return self.largest_difference / self.largest_value if self.largest_value else self.largest_difference

    @property
    def explained(self) -> bool:
        """Whether float32 rounding explains the difference; it never explains NaN."""
        return self.relative <= TOLERANCE


def random_clip(config: TimesformerConfig, seed: int = 0) -> Float[np.ndarray, "1 t height width c"]:
    """A clip of normally distributed pixel values at the config's own size."""
    shape = (1, config.num_frames, *config.image_shape, config.num_channels)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def verify(
    tensors: Mapping[str, LazyTensor],
    model: TimesformerForVideoClassification | TimesformerModel,
    params: Params,
    pixel_values: Float[np.ndarray, "1 t height width c"],
    adapter: Path | None = None,
) -> list[Difference]:
    """Runs a PyTorch checkpoint with Transformers and a Flax model on one clip, both in float32.

    The PyTorch model gets its tensors by their own names, so that the mapping table has no part in it, and rounded to
    the type in which `params` are stored. PEFT itself merges an adapter into it.

    Args:
        tensors: a state dict with the names of Transformers.
        model: the same model in Flax.
        params: its parameters.
        pixel_values: one clip.
        adapter: the directory of a PEFT adapter that is merged in `params` and not in `tensors`.

    Returns:
        The largest differences of the logits (or the last hidden state), of every hidden state and every attention.

    Raises:
        CheckpointError: torch, transformers or (for an adapter) peft is not installed, or Transformers can't load the
            checkpoint, or has no such model.
    """
    require_known(model.config)
    stored_dtype = jax.tree.leaves(params)[0].dtype
    reference = _reference_model(tensors, model.config, pixel_values.shape, stored_dtype, adapter)
    expected = _run_reference(reference, model.config, pixel_values)
    forward = jax.jit(model.apply, static_argnames=("output_hidden_states", "output_attentions"))
    with jax.default_matmul_precision("highest"):
        outputs: Any = forward({"params": params}, pixel_values, output_hidden_states=True, output_attentions=True)
    final = outputs.logits if isinstance(model, TimesformerForVideoClassification) else outputs.last_hidden_state
    found: list[tuple[str, Any]] = [("logits" if model.has_head else "last hidden state", final)]
    found += _numbered("hidden state", outputs.hidden_states) + _numbered("attention", outputs.attentions)
    return [_difference(name, actual, wanted) for (name, actual), wanted in zip(found, expected, strict=True)]


def print_differences(differences: Sequence[Difference]) -> None:
    """Prints a table of differences."""
    table = Table("output", "largest difference", "largest value", "relative", "")
    for d in differences:
        verdict = "ok" if d.explained else "DIFFERS"
        table.add_row(d.name, f"{d.largest_difference:.2e}", f"{d.largest_value:.4g}", f"{d.relative:.1e}", verdict)
    Console().print(table)


def require_explained(differences: Sequence[Difference]) -> None:
    """Checks that float32 rounding explains every difference.

    Raises:
        VerificationError: it does not; the message names the first output.
    """
    unexplained = [d.name for d in differences if not d.explained]
    if unexplained:
        raise VerificationError(
            f"PyTorch and Flax differ by more than float32 explains ({TOLERANCE:g} of the largest value) in "
            f"{len(unexplained)} of {len(differences)} outputs, first in {unexplained[0]}."
        )


def _numbered(name: str, arrays: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(f"{name} {i}", array) for i, array in enumerate(arrays)]


def _difference(name: str, actual: Any, expected: np.ndarray) -> Difference:
    # The reference folds the frames into the batch axis.
    difference = np.abs(np.asarray(actual, np.float32).reshape(expected.shape) - expected)
    return Difference(name, float(difference.max()), float(np.abs(expected).max()))


def require_reference(*further: str) -> None:
    """Checks that PyTorch, Transformers and further packages can be imported.

    Raises:
        CheckpointError: one of them can't.
    """
    packages = ("torch", "transformers", *further)
    try:
        for package in packages:
            importlib.import_module(package)
    except ImportError as error:
        needed = "PyTorch and Transformers" if not further else f"PyTorch, Transformers and {', '.join(further)}"
        raise CheckpointError(
            f"verification needs {needed}, and {error.name} is not installed: pip install {' '.join(packages)}."
        ) from None


def _reference_model(
    tensors: Mapping[str, LazyTensor],
    config: TimesformerConfig,
    clip_shape: tuple[int, ...],
    dtype: np.dtype,
    adapter: Path | None,
) -> Any:
    require_reference(*([] if adapter is None else ["peft"]))
    import torch
    import transformers

    kind = transformers.TimesformerForVideoClassification if has_head(tensors) else transformers.TimesformerModel
    values = config.to_dict()
    values["id2label"] = {int(i): name for i, name in values["id2label"].items()}
    torch_config = transformers.TimesformerConfig(**values)
    model = kind(torch_config)
    if adapter is None:
        model.load_state_dict(
            {name: torch.from_numpy(t.read().astype(dtype).astype(np.float32)) for name, t in tensors.items()}
        )
    else:
        model = _with_adapter(model.double(), tensors, adapter)
        rounded = {name: t.numpy().astype(dtype).astype(np.float64) for name, t in model.state_dict().items()}
        model.load_state_dict({name: torch.from_numpy(array) for name, array in rounded.items()})
    # The reference regroups tokens by its config, of which it takes the width alone; the clip's own make it right.
    _, torch_config.num_frames, _, torch_config.image_size, _ = clip_shape
    torch_config.patch_size = config.patch_shape[1]
    return model.float().eval()


def _with_adapter(model: Any, tensors: Mapping[str, LazyTensor], adapter: Path) -> Any:
    """A model in float64 with the tensors of the base, into which PEFT merges an adapter."""
    import peft
    import torch

    base = {name: torch.from_numpy(tensor.read().astype(np.float64)) for name, tensor in tensors.items()}
    # The classifier alone may be the adapter's.
    model.load_state_dict({**{name: t for name, t in model.state_dict().items() if name not in base}, **base})
    return peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def _run_reference(model: Any, config: TimesformerConfig, pixel_values: np.ndarray) -> list[np.ndarray]:
    import torch

    with torch.no_grad():
        frames = torch.from_numpy(np.ascontiguousarray(pixel_values.transpose(0, 1, 4, 2, 3)))
        outputs = model(frames, output_hidden_states=True, output_attentions=True)
        final = outputs["logits"] if "logits" in outputs else outputs["last_hidden_state"]
        if config.attention_type == "space_only":
            # Transformers returns one row a frame; the paper's code averages the frames before the final norm.
            backbone = getattr(model, BACKBONE, model)
            final = backbone.layernorm(outputs["hidden_states"][-1].mean(0, keepdim=True))
            final = model.classifier(final[:, 0]) if "logits" in outputs else final
        return [tensor.numpy() for tensor in (final, *outputs["hidden_states"], *outputs["attentions"])]
