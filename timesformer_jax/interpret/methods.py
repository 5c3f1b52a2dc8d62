"""The methods of interpretation: each gives a picture, maps that can be laid over frames in motion, and the numbers."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from ..schemes import has_position_embeddings, has_temporal_attention
from .animation import write_animation
from .attention_maps import attention_maps, patches_beside_cls
from .choices import Choices, Method
from .figures import embedding_figure, overlay_figure, temporal_figure
from .overlay import Scale
from .relevance import class_relevance
from .rollout import attention_rollout
from .video_encoder import VideoEncoder

Frames = UInt8[np.ndarray, "t h w 3"]
Maps = Float[np.ndarray, "t rows columns"]


@dataclasses.dataclass(frozen=True)
class Interpretation:
    """What one method shows of a clip.

    Attributes:
        name: of the method.
        figure: the picture.
        arrays: the numbers, by name, in no unit but that which the method gives them.
        animate: writes the frames in motion, their maps laid over them, to a path that ends in .gif or .mp4; None
            where there is nothing to lay over frames.
    """

    name: Method
    figure: Figure
    arrays: Mapping[str, np.ndarray]
    animate: Callable[[Path], None] | None = None


def missing_methods(encoder: VideoEncoder) -> dict[Method, str]:
    """The methods that a model has nothing for, and why."""
    config = encoder.model.config
    missing: dict[Method, str] = {}
    if not has_temporal_attention(config):
        missing["temporal"] = f"{config.attention_type} attention has no step over time alone"
    if not has_position_embeddings(config):
        missing["embeddings"] = "it has no position embeddings"
    if not encoder.model.has_head or config.num_labels == 0:
        missing["relevance"] = "it has no classifier"
    return missing


def interpret_clip(
    encoder: VideoEncoder, frames: Frames, methods: Sequence[Method], choices: Choices
) -> Iterator[Interpretation]:
    """Interprets what a model makes of a clip by several methods, one after the other.

    Args:
        encoder: the model with its preprocessing.
        frames: what `encoder.read` gives.
        methods: those that the model has.
        choices: what to look at.
    """
    # Spatial and temporal attention come from the same pass through the model.
    steps: dict[Method, Callable[[], Iterator[Interpretation]]] = {
        "attention": lambda: _attention(encoder, frames, methods, choices),
        "temporal": lambda: _attention(encoder, frames, methods, choices),
        "rollout": lambda: _rollout(encoder, frames),
        "relevance": lambda: _relevance(encoder, frames, choices),
        "embeddings": lambda: iter([Interpretation("embeddings", embedding_figure(encoder.model, encoder.params), {})]),
    }
    done: set[Method] = set()
    for method in methods:
        if method not in done:
            done |= {"attention", "temporal"} if method in ("attention", "temporal") else {method}
            yield from steps[method]()


def _attention(
    encoder: VideoEncoder, frames: Frames, methods: Sequence[Method], choices: Choices
) -> Iterator[Interpretation]:
    config, pictures = encoder.model.config, encoder.rgb(frames)
    height, width = config.patch_shape
    patch = choices.patch or (frames.shape[1] // height // 2, frames.shape[2] // width // 2)
    found = attention_maps(
        encoder.model,
        encoder.params,
        encoder.pixel_values(frames[None]),
        patch=patch if "temporal" in methods else None,
    )
    if "attention" in methods:
        maps = choices.reduce(found.space[:, 0])
        # CLS attends to itself as well.
        maps = maps * (1 + patches_beside_cls(config, len(frames), maps.shape[1:]))
        title = f"spatial attention of CLS, {choices.words}"
        yield _over_frames(
            "attention", pictures, maps, "attention / even attention", title, {"attention": found.space[:, 0]}
        )
    if found.time is not None:
        title = f"temporal attention of a patch, {choices.words}"
        figure = temporal_figure(pictures, choices.reduce(found.time[:, 0]), patch, config.patch_shape, title)
        yield Interpretation("temporal", figure, {"temporal": found.time[:, 0], "temporal_patch": np.array(patch)})


def _rollout(encoder: VideoEncoder, frames: Frames) -> Iterator[Interpretation]:
    shares, of_cls = attention_rollout(encoder.model, encoder.params, encoder.pixel_values(frames[None]))
    maps, own = shares[0], float(of_cls[0])
    title = f"attention rollout: where CLS comes from ({own:.1%} from itself)"
    even = (1 - own) / maps.size
    arrays = {"rollout": maps, "rollout_of_cls": of_cls[0]}
    yield _over_frames("rollout", encoder.rgb(frames), maps / even, "share / even share", title, arrays)


def _relevance(encoder: VideoEncoder, frames: Frames, choices: Choices) -> Iterator[Interpretation]:
    classes = None if choices.target is None else [choices.target]
    relevances, logits = class_relevance(encoder.model, encoder.params, encoder.pixel_values(frames[None]), classes)
    maps = relevances[0]
    index = int(logits[0].argmax()) if choices.target is None else choices.target
    title = f"relevance for {encoder.model.config.id2label[index]!r} (logit {logits[0, index]:.2f})"
    arrays = {"relevance": maps, "relevance_class": np.array(index), "logits": logits[0]}
    largest = float(maps.max()) or 1.0
    yield _over_frames("relevance", encoder.rgb(frames), maps / largest, "relevance / largest", title, arrays)


def _over_frames(
    name: Method, frames: Frames, maps: Maps, label: str, title: str, arrays: Mapping[str, np.ndarray]
) -> Interpretation:
    scale = Scale.of(maps, label)
    animate = functools.partial(write_animation, frames=frames, maps=maps, scale=scale, title=title)
    return Interpretation(name, overlay_figure(frames, maps, scale, title), arrays, animate)
