"""TimeSformer once more, in numpy loops: an independent reading of the paper (arXiv 2102.05095, section 3).

It is written token by token from the equations, shares nothing with the package, and takes the tensors under the
names and in the shapes of a PyTorch checkpoint. Slow; for tiny models only.

Where the paper leaves a choice, the authors' code decides: temporal attention leaves CLS out; CLS gets the mean of what
the frames' spatial attentions give it; the temporal branch ends in a dense layer of its own; space-only attention
averages the frames before the final norm; embeddings for another size are taken from the nearest neighbour below,
floor(i * old / new).

Sparse local-global and axial attention, whose code the authors never released, are whole matrices over all tokens of
the clip here, masked by what the coordinates of two tokens say; schemes.py and sparse_groups.py tell the choices.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]


@dataclasses.dataclass
class NumpyOutput:
    """In the layout of `TimesformerModelOutput`, but for `whole`.

    Attributes:
        whole: of each attention over rows, columns, windows or the lattice, by its name and layer by layer: the
            probabilities on all tokens (batch, heads, 1 + tokens, 1 + tokens); CLS's row is the mean over the groups.
    """

    logits: np.ndarray
    last_hidden_state: np.ndarray
    hidden_states: tuple[np.ndarray, ...]
    attentions: tuple[np.ndarray, ...]
    temporal_attentions: tuple[np.ndarray, ...] | None
    whole: dict[str, tuple[np.ndarray, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Clip:
    """The tokens of one clip.

    Attributes:
        cls: one for the clip (d,), or, with space-only attention, one for each frame (t, d).
        patches: [p][t] is the token of patch p in frame t.
    """

    cls: np.ndarray
    patches: list[list[np.ndarray]]
    columns: int

    @property
    def coordinates(self) -> list[tuple[int, int, int]]:
        """(frame, row, column) of each patch of each frame, in the order of `sequence`."""
        frames = range(len(self.patches[0]))
        return [(t, *divmod(p, self.columns)) for p in range(len(self.patches)) for t in frames]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows and columns."""
        return len(self.patches[0]), len(self.patches) // self.columns, self.columns

    def sequence(self) -> np.ndarray:
        """CLS, then patch by patch, frame by frame; with space-only attention one such sequence for each frame."""
        if self.cls.ndim == 1:
            return np.stack([self.cls, *(token for frames in self.patches for token in frames)])
        return np.stack([np.stack([cls, *(frames[t] for frames in self.patches)]) for t, cls in enumerate(self.cls)])


def run(tensors: Tensors, config: Any, pixel_values: np.ndarray) -> NumpyOutput:
    """The classifier with the weights `tensors` on clips (batch, frames, height, width, channels)."""
    clips = [embed(tensors, config, clip) for clip in pixel_values]
    hidden_states = [np.stack([clip.sequence() for clip in clips])]
    attentions, temporal_attentions, whole = [], [], {}
    for i in range(config.num_hidden_layers):
        prefix = f"timesformer.encoder.layer.{i}."
        layer = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        found = [BLOCKS[config.attention_type](layer, config, clip) for clip in clips]
        hidden_states.append(np.stack([clip.sequence() for clip in clips]))
        if config.attention_type in ("sparse_local_global", "axial"):
            for name in found[0]:
                whole.setdefault(name, []).append(np.stack([of_clip[name] for of_clip in found]))
            continue
        space, time = zip(*found, strict=True)
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
        whole={name: tuple(layers) for name, layers in whole.items()},
    )


def embed(tensors: Tensors, config: Any, frames: np.ndarray) -> Clip:
    """Equation 1: z(p, t) = E x(p, t) + e(p, t), e a sum of a place's and a frame's; z(0) = CLS + e(0)."""
    prefix = "timesformer.embeddings."
    kernel, bias = (tensors[f"{prefix}patch_embeddings.projection.{kind}"] for kind in ("weight", "bias"))
    patch_height, patch_width = kernel.shape[2:]
    cls, kind = tensors[f"{prefix}cls_token"][0, 0], getattr(config, "position_embedding_type", "space_time")
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
                token = token + bias
                if kind != "none":
                    token = token + tensors[f"{prefix}position_embeddings"][0][1 + old_row * old_columns + old_column]
                if kind == "space_time" and config.attention_type != "space_only":
                    time = tensors[f"{prefix}time_embeddings"][0]
                    token = token + time[t * len(time) // len(frames)]
                tokens.append(token)
            patches.append(tokens)
    if kind != "none":
        cls = cls + tensors[f"{prefix}position_embeddings"][0][0]
    return Clip(np.stack([cls] * len(frames)) if config.attention_type == "space_only" else cls, patches, columns)


def divided(layer: Tensors, config: Any, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Equation 11, then equation 6 with its result, then the MLP; or in another order. Changes `clip`."""
    order = getattr(config, "attention_order", "time_space")
    if order == "time_space":
        time = add_over_time(layer, config, clip, clip)
        space = add_over_space(layer, config, clip, clip)
    elif order == "space_time":
        space = add_over_space(layer, config, clip, clip)
        time = add_over_time(layer, config, clip, clip)
    else:
        before = Clip(clip.cls, [list(frames) for frames in clip.patches], clip.columns)
        time = add_over_time(layer, config, before, clip)
        space = add_over_space(layer, config, before, clip)
    finish(layer, config, clip)
    return space, time


def add_over_time(layer: Tensors, config: Any, seen: Clip, clip: Clip) -> np.ndarray:
    """Adds what each place's attention over the frames of `seen` gives."""
    time = []
    for p, frames in enumerate(seen.patches):
        normed = [norm(layer, "temporal_layernorm", token, config) for token in frames]
        attended, probabilities = attention(layer, "temporal_attention", normed, config)
        for t, new in enumerate(attended):
            clip.patches[p][t] = clip.patches[p][t] + linear(layer, "temporal_dense", new)
        time.append(probabilities)
    return np.stack(time)


def add_over_space(layer: Tensors, config: Any, seen: Clip, clip: Clip) -> np.ndarray:
    """Adds what the attention over each frame of `seen`, with CLS, gives."""
    space, for_cls, num_frames = [], [], len(seen.patches[0])
    frames_seen = [[seen.cls, *(frames[t] for frames in seen.patches)] for t in range(num_frames)]
    for t, tokens in enumerate(frames_seen):
        normed = [norm(layer, "layernorm_before", token, config) for token in tokens]
        attended, probabilities = attention(layer, "attention", normed, config)
        for_cls.append(attended[0])
        for frames, new in zip(clip.patches, attended[1:], strict=True):
            frames[t] = frames[t] + new
        space.append(probabilities)
    clip.cls = clip.cls + sum(for_cls) / num_frames
    return np.stack(space)


def finish(layer: Tensors, config: Any, clip: Clip) -> None:
    """The MLP."""
    clip.cls = mlp(layer, config, clip.cls)
    clip.patches = [[mlp(layer, config, token) for token in frames] for frames in clip.patches]


def axial(layer: Tensors, config: Any, clip: Clip) -> dict[str, np.ndarray]:
    """Over time (t, of a place), width (a row of a frame) and height (a column of a frame)."""
    found = {
        "temporal_attention": masked(layer, config, clip, "temporal", lambda a: a[1:], with_cls=False),
        "width_attention": masked(layer, config, clip, "width", lambda a: (a[0], a[1]), with_cls=True),
        "attention": masked(layer, config, clip, None, lambda a: (a[0], a[2]), with_cls=True),
    }
    finish(layer, config, clip)
    return found


def sparse_local_global(layer: Tensors, config: Any, clip: Clip) -> dict[str, np.ndarray]:
    """Over half of the rows and columns around a patch in all frames, then over every second patch each way."""
    _, rows, columns = clip.shape

    def is_near(query: tuple[int, int, int], key: tuple[int, int, int]) -> bool:
        return all(key[i] in span(query[i], length) for i, length in ((1, rows), (2, columns)))

    def parity(place: tuple[int, int, int]) -> tuple[int, ...]:
        return tuple(number % 2 for number in place)

    found = {
        "local_attention": masked(layer, config, clip, "local", None, with_cls=False, sees=is_near),
        "attention": masked(layer, config, clip, None, parity, with_cls=True),
    }
    finish(layer, config, clip)
    return found


def span(place: int, length: int) -> range:
    """Half of the places of an axis, rounded up: half of these before `place`, rounded down, none beyond the ends."""
    size = (length + 1) // 2
    start = place - size // 2
    while start < 0:
        start += 1
    while start + size > length:
        start -= 1
    return range(start, start + size)


def masked(
    layer: Tensors,
    config: Any,
    clip: Clip,
    name: str | None,
    group: Callable[[tuple[int, int, int]], Any] | None,
    *,
    with_cls: bool,
    sees: Callable[[tuple[int, int, int], tuple[int, int, int]], bool] | None = None,
) -> np.ndarray:
    """Plain attention over all tokens of the clip, masked: patches see those of their `group`, or whom they `see`.

    CLS, where it takes part, is seen by all; it attends to each group with itself, and gets the mean. Adds the result
    to the clip; gives the matrix of probabilities.
    """
    prefix = "" if name is None else f"{name}_"
    norm_name = "layernorm_before" if name is None else f"{name}_layernorm"
    places, heads = clip.coordinates, config.num_attention_heads
    tokens = clip.sequence()
    qkv = np.stack(
        [linear(layer, f"{prefix}attention.attention.qkv", norm(layer, norm_name, x, config)) for x in tokens]
    )
    query, key, value = qkv.reshape(len(tokens), 3, heads, -1).transpose(1, 2, 0, 3)
    logits = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])

    def softmax(rows: np.ndarray, visible: np.ndarray) -> np.ndarray:
        weights = np.exp(rows) * visible
        return weights / weights.sum(axis=-1, keepdims=True)

    visible = np.zeros((len(places), len(tokens)))
    for i, a in enumerate(places):
        visible[i, 0] = with_cls
        for j, b in enumerate(places):
            visible[i, 1 + j] = sees(a, b) if sees is not None else group(a) == group(b)
    of_patches = softmax(logits[:, 1:], visible)
    of_cls = np.zeros((heads, 1, len(tokens)))
    if with_cls:
        groups = sorted({group(a) for a in places})
        rows = [softmax(logits[:, :1], np.array([1, *(group(a) == each for a in places)])) for each in groups]
        of_cls = np.mean(rows, axis=0)
    # What a test adds to them, to see what it changes.
    probabilities = np.concatenate([of_cls, of_patches], axis=1) + layer.get(f"{prefix}attention.added", 0)

    attended = (probabilities @ value).transpose(1, 0, 2).reshape(len(tokens), -1)
    for i, new in enumerate(attended):
        if i == 0 and not with_cls:
            continue
        new = linear(layer, f"{prefix}attention.output.dense", new)
        new = new if name is None else linear(layer, f"{name}_dense", new)
        if i == 0:
            clip.cls = clip.cls + new
        else:
            p, t = divmod(i - 1, clip.shape[0])
            clip.patches[p][t] = clip.patches[p][t] + new
    return probabilities


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


BLOCKS: dict[str, Callable[[Tensors, Any, Clip], Any]] = {
    "divided_space_time": divided,
    "joint_space_time": joint,
    "space_only": space_only,
    "sparse_local_global": sparse_local_global,
    "axial": axial,
}
