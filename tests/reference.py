"""The PyTorch reference for the tests: tiny models of Transformers, every tensor of them disturbed."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pytorch import torch, transformers

import timesformer_jax
from timesformer_jax.checkpoints.huggingface import to_state_dict

TINY: dict[str, Any] = {
    "image_size": 12,
    "patch_size": 4,
    "num_channels": 3,
    "num_frames": 5,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_labels": 7,
}
"""Dimensions that differ from each other, so that a wrong transpose breaks a shape."""

BATCH = 2

ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")


def tiny_reference(
    *, head: bool = True, seed: int = 0, dtype: torch.dtype = torch.float64, **config_kwargs: Any
) -> transformers.PreTrainedModel:
    """A Transformers model in evaluation mode, with no tensor at zero or one.

    Args:
        head: the classifier, or the bare model.
        seed: of the weights.
        dtype: of the weights.
        **config_kwargs: what differs from `TINY`. "selu", which Transformers' table of activations lacks, works too.
    """
    settings = TINY | config_kwargs
    activation = settings.get("hidden_act")
    if activation == "selu":
        settings["hidden_act"] = "relu"
    config = transformers.TimesformerConfig(**settings)
    kind = transformers.TimesformerForVideoClassification if head else transformers.TimesformerModel
    model = kind(config).to(dtype).eval()
    if activation == "selu":
        config.hidden_act = activation
        for layer in model.base_model.encoder.layer:
            layer.intermediate.intermediate_act_fn = torch.nn.SELU()
    disturb(model, seed)
    return model


def disturb(model: torch.nn.Module, seed: int = 0) -> None:
    """Gives every tensor values that matter: none is zero or one, and no two are alike.

    Kernels keep the scale of their inputs (1.5 / sqrt(fan in)), so that attention is neither flat nor one-hot and every
    branch shows in the logits; the classifier's does not, so that these are well above 1.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(model.state_dict().items()):
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if "norm" in name and name.endswith("weight"):
            noise = 1 + 0.3 * noise
        elif tensor.ndim == 1:
            noise *= 0.5
        elif tensor.ndim != 3 and name != "classifier.weight":  # a kernel, and no embedding
            noise *= 1.5 / tensor[0].numel() ** 0.5
        tensor.copy_(noise.to(tensor.dtype))


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


def clip(config: Any, *, seed: int = 0, batch: int = BATCH, **sizes: int) -> np.ndarray:
    """Random pixel values (batch, frames, height, width, channels), in the config's sizes where not given.

    Args:
        config: of the reference or of this package.
        seed: of the values.
        batch: clips.
        **sizes: num_frames, height, width.
    """
    image = config.image_size if isinstance(config.image_size, tuple | list) else (config.image_size,) * 2
    sizes = {"num_frames": config.num_frames, "height": image[0], "width": image[1]} | sizes
    shape = (batch, sizes["num_frames"], sizes["height"], sizes["width"], config.num_channels)
    return np.random.default_rng(seed).normal(size=shape)


@dataclasses.dataclass
class ReferenceOutput:
    """What the reference computes, as tensors in this package's layout (see `TimesformerModelOutput`)."""

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]
    attentions: tuple[torch.Tensor, ...]
    temporal_attentions: tuple[torch.Tensor, ...] | None
    logits: torch.Tensor | None


def run_reference(model: transformers.PreTrainedModel, pixel_values: np.ndarray) -> ReferenceOutput:
    """Runs a Transformers model on (batch, frames, height, width, channels), made right where it is wrong.

    Its config is set to the input's frames and size, by which it regroups tokens (Transformers' issue 38027), and the
    frames of space-only attention are averaged before the final norm, as the paper's code does. Otherwise all
    computation is that of Transformers' modules. Temporal probabilities, which it does not return, are caught on the
    way. Gradients flow where they are on.
    """
    batch, frames, _, width, _ = pixel_values.shape
    backbone, config = model.base_model, model.config
    patch_width = backbone.embeddings.patch_embeddings.projection.kernel_size[1]
    caught: list[torch.Tensor] = []
    hooks = [
        layer.temporal_attention.attention.attn_drop.register_forward_hook(lambda *call: caught.append(call[2]))
        for layer in backbone.encoder.layer
        if config.attention_type == "divided_space_time"
    ]
    pixels = to_torch(pixel_values, model.dtype)
    with _settings(config, num_frames=frames, image_size=width, patch_size=patch_width):
        encoded = backbone.encoder(
            backbone.embeddings(pixels), output_attentions=True, output_hidden_states=True, return_dict=True
        )
    for hook in hooks:
        hook.remove()
    tokens, hidden_states, attentions = encoded.last_hidden_state, encoded.hidden_states, encoded.attentions
    if config.attention_type == "space_only":
        tokens = tokens.unflatten(0, (batch, frames)).mean(1)
        hidden_states = tuple(state.unflatten(0, (batch, frames)) for state in hidden_states)
    if config.attention_type != "joint_space_time":
        attentions = tuple(probabilities.unflatten(0, (batch, frames)) for probabilities in attentions)
    last_hidden_state = backbone.layernorm(tokens)
    return ReferenceOutput(
        last_hidden_state=last_hidden_state,
        hidden_states=hidden_states,
        attentions=attentions,
        temporal_attentions=tuple(probabilities.unflatten(0, (batch, -1)) for probabilities in caught) or None,
        logits=model.classifier(last_hidden_state[:, 0]) if model is not backbone else None,
    )


@contextlib.contextmanager
def _settings(config: Any, **values: Any) -> Generator[None]:
    before = {name: getattr(config, name) for name in values}
    for name, value in values.items():
        setattr(config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def to_torch(pixel_values: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Pixel values in PyTorch's order, channels before height and width."""
    return torch.from_numpy(np.ascontiguousarray(pixel_values.transpose(0, 1, 4, 2, 3))).to(dtype)


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
    return array.detach().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
