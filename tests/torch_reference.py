"""The PyTorch reference alone: tiny models of Transformers (4 or 5), every tensor of them disturbed, and their outputs.

Nothing here knows JAX or this package, so that record_reference.py runs where they are not installed.
"""

import contextlib
import dataclasses
from collections.abc import Generator
from typing import Any

import numpy as np
from pytorch import torch, transformers

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
