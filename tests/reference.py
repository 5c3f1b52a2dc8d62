"""The PyTorch reference for the tests beside this package's model, and how the two are compared."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pytorch import transformers
from torch_reference import (
    ATTENTION_TYPES,
    BATCH,
    TINY,
    ReferenceOutput,
    clip,
    disturb,
    run_reference,
    tiny_reference,
    to_torch,
)

import timesformer_jax
from timesformer_jax.checkpoints.huggingface import to_state_dict

__all__ = [
    "ATTENTION_TYPES",
    "BATCH",
    "FLOAT64_TOLERANCE",
    "QUICK_COMPILE",
    "TINY",
    "ReferenceOutput",
    "assert_close",
    "check_outputs",
    "clip",
    "disturb",
    "relative_difference",
    "run_flax",
    "run_reference",
    "tiny_reference",
    "to_flax",
    "to_torch",
    "torch_names",
]


def to_flax(model: transformers.PreTrainedModel, dtype: Any = None, **overrides: Any) -> tuple[Any, Any]:
    """The Flax module and parameters of a Transformers model, through a checkpoint on disk.

    Args:
        model: the reference.
        dtype: of the computation and the parameters; None takes the reference's.
        **overrides: further arguments of `from_pretrained`.
    """
    kind = getattr(timesformer_jax, type(model).__name__)
    dtype = jnp.dtype(str(model.dtype).removeprefix("torch.") if dtype is None else dtype)
    with tempfile.TemporaryDirectory() as directory, jax.enable_x64(dtype == jnp.float64 or jax.config.jax_enable_x64):
        model.save_pretrained(directory)
        return kind.from_pretrained(Path(directory), dtype=dtype, param_dtype=dtype, **overrides)


# A tiny model takes longer to compile than to run; unoptimised, half as long. (test_modeling.py compiles as users do.)
QUICK_COMPILE = {"xla_backend_optimization_level": 0}


def run_flax(model: Any, params: Any, pixel_values: np.ndarray) -> Any:
    """Everything that the Flax model returns."""
    return _apply(model, {"params": params}, pixel_values)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK_COMPILE)
def _apply(model: Any, variables: Any, pixel_values: Any) -> Any:
    return model.apply(variables, pixel_values, output_attentions=True, output_hidden_states=True)


def torch_names(tree: Any, config: timesformer_jax.TimesformerConfig) -> dict[str, np.ndarray]:
    """A tree like the parameters (they themselves, their gradients) under the reference's names and shapes."""
    return to_state_dict(jax.tree.map(np.asarray, tree), config)


def relative_difference(actual: Any, expected: Any) -> float:
    """The largest difference, relative to the largest value expected."""
    actual, expected = _as_numpy(actual), _as_numpy(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def assert_close(actual: Any, expected: Any, tolerance: float, what: str) -> None:
    """Asserts that the `relative_difference` is within the tolerance, or shows both sides at the worst place."""
    difference = relative_difference(actual, expected)
    if not difference <= tolerance:  # so that NaN fails
        actual, expected = _as_numpy(actual), _as_numpy(expected)
        worst = np.unravel_index(np.nan_to_num(np.abs(actual - expected), nan=np.inf).argmax(), actual.shape)
        raise AssertionError(
            f"{what} differ by {difference:.2e} of the largest value (tolerance {tolerance:.0e}), "
            f"most at {tuple(map(int, worst))}: {actual[worst]!r} here, {expected[worst]!r} in the reference"
        )


# Rounding alone: float64 carries 1e-16, and a few layers of sums of some dozen terms lose a digit or two of it.
FLOAT64_TOLERANCE = 1e-12


def check_outputs(actual: Any, expected: Any) -> None:
    """Compares all that two models return in float64, layer by layer: the first difference is the one reported."""
    for name in ("hidden_states", "attentions", "temporal_attentions"):
        ours, theirs = getattr(actual, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        for i, (our, their) in enumerate(zip(ours or (), theirs or (), strict=True)):
            assert_close(our, their, FLOAT64_TOLERANCE, f"{name}[{i}]")
    last = "logits" if hasattr(actual, "logits") else "last_hidden_state"
    ours, theirs = getattr(actual, last), getattr(expected, last)
    assert theirs.std() >= 1, f"{last} must vary to show anything; their standard deviation is {theirs.std():.2f}"
    assert_close(ours, theirs, FLOAT64_TOLERANCE, last)


def _as_numpy(array: Any) -> np.ndarray:
    return array.detach().numpy() if hasattr(array, "detach") else np.asarray(array)
