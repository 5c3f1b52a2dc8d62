"""TimeSformer once more, in numpy loops: an independent reading of the paper (arXiv 2102.05095, section 3).

It is written token by token from the equations, shares nothing with the package, and takes the tensors under the
names and in the shapes of a PyTorch checkpoint. Slow; for tiny models only.

Where the paper leaves a choice, the authors' code decides: temporal attention leaves CLS out; CLS gets the mean of what
the frames' spatial attentions give it; the temporal branch ends in a dense layer of its own; space-only attention
averages the frames before the final norm; embeddings for another size are taken from the nearest neighbour below,
floor(i * old / new).
"""

import dataclasses
import math
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]


@dataclasses.dataclass
class NumpyOutput:
    """In the layout of `TimesformerModelOutput`."""

    logits: np.ndarray
    last_hidden_state: np.ndarray
    hidden_states: tuple[np.ndarray, ...]
    attentions: tuple[np.ndarray, ...]
    temporal_attentions: tuple[np.ndarray, ...] | None


@dataclasses.dataclass
class Clip:
    """The tokens of one clip.

    Attributes:
        cls: one for the clip (d,), or, with space-only attention, one for each frame (t, d).
        patches: [p][t] is the token of patch p in frame t.
    """

    cls: np.ndarray
    patches: list[list[np.ndarray]]

    def sequence(self) -> np.ndarray:
        """CLS, then patch by patch, frame by frame; with space-only attention one such sequence for each frame."""
        if self.cls.ndim == 1:
            return np.stack([self.cls, *(token for frames in self.patches for token in frames)])
        return np.stack([np.stack([cls, *(frames[t] for frames in self.patches)]) for t, cls in enumerate(self.cls)])


def run(tensors: Tensors, config: Any, pixel_values: np.ndarray) -> NumpyOutput:
    """The classifier with the weights `tensors` on clips (batch, frames, height, width, channels)."""
    clips = [embed(tensors, config, clip) for clip in pixel_values]
    hidden_states = [np.stack([clip.sequence() for clip in clips])]
    attentions, temporal_attentions = [], []
    for i in range(config.num_hidden_layers):
        prefix = f"timesformer.encoder.layer.{i}."
        layer = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        step = {"divided_space_time": divided, "joint_space_time": joint, "space_only": space_only}
        space, time = zip(*(step[config.attention_type](layer, config, clip) for clip in clips), strict=True)
        hidden_states.append(np.stack([clip.sequence() for clip in clips]))
        attentions.append(np.stack(space))
        temporal_attentions.append(time)
    final = hidden_states[-1].mean(axis=1) if config.attention_type == "space_only" else hidden_states[-1]
    # Equation 10, and the linear classifier on it.
    last = np.stack([[norm(tensors, "timesformer.layernorm", token, config) for token in clip] for clip in final])
    return NumpyOutput(
        logits=np.stack([linear(tensors, "classifier", clip[0]) for clip in last]),
        last_hidden_state=last,
        hidden_states=tuple(hidden_states),
        attentions=tuple(attentions),
        temporal_attentions=(
            tuple(map(np.stack, temporal_attentions)) if config.attention_type == "divided_space_time" else None
        ),
    )


def embed(tensors: Tensors, config: Any, frames: np.ndarray) -> Clip:
    """Equation 1: z(p, t) = E x(p, t) + e(p, t), e a sum of a place's and a frame's; z(0) = CLS + e(0)."""
    prefix = "timesformer.embeddings."
    kernel, bias = (tensors[f"{prefix}patch_embeddings.projection.{kind}"] for kind in ("weight", "bias"))
    patch_height, patch_width = kernel.shape[2:]
    place, cls = tensors[f"{prefix}position_embeddings"][0], tensors[f"{prefix}cls_token"][0, 0]
    height, width = pair(config.image_size)
    old_rows, old_columns = height // patch_height, width // patch_width
    rows, columns = frames.shape[1] // patch_height, frames.shape[2] // patch_width

    patches = []
    for row in range(rows):
        for column in range(columns):
            old_row, old_column = row * old_rows // rows, column * old_columns // columns
            tokens = []
            for t, frame in enumerate(frames):
                patch = frame[row * patch_height : (row + 1) * patch_height][
                    :, column * patch_width : (column + 1) * patch_width
                ]
                token = np.array(
                    [sum((weight[c] * patch[:, :, c]).sum() for c in range(len(weight))) for weight in kernel]
                )
                token = token + bias + place[1 + old_row * old_columns + old_column]
                if config.attention_type != "space_only":
                    time = tensors[f"{prefix}time_embeddings"][0]
                    token = token + time[t * len(time) // len(frames)]
                tokens.append(token)
            patches.append(tokens)
    cls = cls + place[0]
    return Clip(np.stack([cls] * len(frames)) if config.attention_type == "space_only" else cls, patches)


def divided(layer: Tensors, config: Any, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Equation 11, then equation 6 with its result, then the MLP. Changes `clip`; returns both attentions."""
    num_frames = len(clip.patches[0])
    time = []
    for frames in clip.patches:
        normed = [norm(layer, "temporal_layernorm", token, config) for token in frames]
        attended, probabilities = attention(layer, "temporal_attention", normed, config)
        frames[:] = [token + linear(layer, "temporal_dense", new) for token, new in zip(frames, attended, strict=True)]
        time.append(probabilities)
    space, for_cls, before = [], [], clip.cls
    for t in range(num_frames):
        tokens = [before, *(frames[t] for frames in clip.patches)]
        normed = [norm(layer, "layernorm_before", token, config) for token in tokens]
        attended, probabilities = attention(layer, "attention", normed, config)
        for_cls.append(attended[0])
        for frames, new in zip(clip.patches, attended[1:], strict=True):
            frames[t] = frames[t] + new
        space.append(probabilities)
    clip.cls = before + sum(for_cls) / num_frames
    clip.cls = mlp(layer, config, clip.cls)
    clip.patches = [[mlp(layer, config, token) for token in frames] for frames in clip.patches]
    return np.stack(space), np.stack(time)


def joint(layer: Tensors, config: Any, clip: Clip) -> tuple[np.ndarray, None]:
    """Equation 5: every token attends to every token of the clip."""
    tokens = list(clip.sequence())
    tokens, probabilities = vit_layer(layer, config, tokens)
    clip.cls = tokens[0]
    num_frames = len(clip.patches[0])
    clip.patches = [tokens[1 + p * num_frames :][:num_frames] for p in range(len(clip.patches))]
    return probabilities, None


def space_only(layer: Tensors, config: Any, clip: Clip) -> tuple[np.ndarray, None]:
    """Equation 6 alone: each frame is an image."""
    space, cls = [], []
    for t, frame_cls in enumerate(clip.cls):
        tokens, probabilities = vit_layer(layer, config, [frame_cls, *(frames[t] for frames in clip.patches)])
        cls.append(tokens[0])
        for frames, token in zip(clip.patches, tokens[1:], strict=True):
            frames[t] = token
        space.append(probabilities)
    clip.cls = np.stack(cls)
    return np.stack(space), None


def vit_layer(layer: Tensors, config: Any, tokens: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    normed = [norm(layer, "layernorm_before", token, config) for token in tokens]
    attended, probabilities = attention(layer, "attention", normed, config)
    return [mlp(layer, config, token + new) for token, new in zip(tokens, attended, strict=True)], probabilities


def attention(layer: Tensors, name: str, tokens: list[np.ndarray], config: Any) -> tuple[list[np.ndarray], np.ndarray]:
    """Equations 2 to 4, 7 and 8 among some tokens: what each gets, and the probabilities (heads, query, key)."""
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    projected = [linear(layer, f"{name}.attention.qkv", token) for token in tokens]
    probabilities = np.zeros((heads, len(tokens), len(tokens)))
    attended = [np.zeros(config.hidden_size) for _ in tokens]
    for a in range(heads):
        of_head = slice(a * size, (a + 1) * size)
        query, key, value = ([np.split(token, 3)[i][of_head] for token in projected] for i in range(3))
        for i, q in enumerate(query):
            weights = np.array([math.exp(q @ k / math.sqrt(size)) for k in key])
            probabilities[a, i] = weights / weights.sum()
            attended[i][of_head] = sum(p * v for p, v in zip(probabilities[a, i], value, strict=True))
    return [linear(layer, f"{name}.output.dense", token) for token in attended], probabilities


def mlp(layer: Tensors, config: Any, token: np.ndarray) -> np.ndarray:
    """Equation 9, with its residual. GELU is x times the normal distribution function."""
    if config.hidden_act != "gelu":
        raise NotImplementedError(config.hidden_act)
    hidden = linear(layer, "intermediate.dense", norm(layer, "layernorm_after", token, config))
    hidden = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in hidden])
    return token + linear(layer, "output.dense", hidden)


def norm(tensors: Tensors, name: str, token: np.ndarray, config: Any) -> np.ndarray:
    centred = token - token.mean()
    scaled = centred / math.sqrt((centred**2).mean() + config.layer_norm_eps)
    return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def linear(tensors: Tensors, name: str, token: np.ndarray) -> np.ndarray:
    return tensors[f"{name}.weight"] @ token + tensors.get(f"{name}.bias", 0)


def pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
