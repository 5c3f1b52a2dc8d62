"""All pictures of one clip into one directory: what `timesformer visualize` writes."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, UInt8

from .animation import write_animation
from .attention_maps import attention_maps, patches_beside_cls
from .files import write_atomically
from .overlay import Scale
from .relevance import class_relevance
from .rollout import attention_rollout
from .video_encoder import VideoEncoder
from .visualization import embedding_figure, overlay_figure, save_figure, temporal_figure

Maps = Float[np.ndarray, "t rows columns"]


@dataclasses.dataclass(frozen=True)
class Choices:
    """What to look at.

    Attributes:
        layer: counted from 0; None is the mean over all.
        head: counted from 0; None is the mean over all.
        patch: row and column, counted from 0 at the top left; None is the middle.
        target: the index of the class to explain; None is the likeliest.
    """

    layer: int | None = None
    head: int | None = None
    patch: tuple[int, int] | None = None
    target: int | None = None

    @property
    def words(self) -> str:
        """Which layer and head, for a title."""
        layer = "mean of all layers" if self.layer is None else f"layer {self.layer}"
        return f"{layer}, {'mean of all heads' if self.head is None else f'head {self.head}'}"

    def reduce(self, maps: Float[np.ndarray, "layers heads *rest"]) -> Float[np.ndarray, "*rest"]:
        """One layer and head, or the mean."""
        of_layer = maps.mean(axis=0) if self.layer is None else maps[self.layer]
        return of_layer.mean(axis=0) if self.head is None else of_layer[self.head]


def draw(
    encoder: VideoEncoder,
    frames: UInt8[np.ndarray, "t h w 3"],
    directory: Path,
    methods: Sequence[str],
    choices: Choices,
    *,
    animation: str | None = "gif",
) -> list[Path]:
    """Writes a picture for each method, an animation where frames move, and the numbers.

    Args:
        encoder: the model with its preprocessing.
        frames: what `encoder.read` gives.
        directory: where to; made if needed.
        methods: "attention", "temporal", "rollout", "relevance" and "embeddings", those that the model has.
        choices: what to look at.
        animation: "gif", "mp4" or None.

    Returns:
        The files. The numbers are in `arrays.npz`, in no unit but that which the method gives them.
    """
    model, params, config = encoder.model, encoder.params, encoder.model.config
    pixel_values = encoder.pixel_values(frames[None])
    pictures = encoder.rgb(frames)
    arrays: dict[str, np.ndarray] = {"frames": pictures}
    files: list[Path] = []

    def save(name: str, figure: Any) -> None:
        save_figure(figure, directory / f"{name}.png")
        files.append(directory / f"{name}.png")

    def over_frames(name: str, maps: Maps, label: str, title: str, unit: float) -> None:
        scale = Scale.of(maps / unit, label)
        save(name, overlay_figure(pictures, maps / unit, scale, title))
        if animation is not None:
            files.append(directory / f"{name}.{animation}")
            write_animation(files[-1], pictures, maps / unit, scale, title)

    def attention() -> None:
        patch = choices.patch or (
            frames.shape[1] // config.patch_shape[0] // 2,
            frames.shape[2] // config.patch_shape[1] // 2,
        )
        maps = attention_maps(model, params, pixel_values, patch=patch if "temporal" in methods else None)
        if "attention" in methods:
            arrays["attention"] = maps.space[:, 0]
            chosen = choices.reduce(maps.space[:, 0])
            # CLS attends to itself as well.
            even = 1 / (1 + patches_beside_cls(config, len(frames), chosen.shape[1:]))
            title = f"spatial attention of CLS, {choices.words}"
            over_frames("attention", chosen, "attention / even attention", title, even)
        if maps.time is not None:
            arrays["temporal"], arrays["temporal_patch"] = maps.time[:, 0], np.array(patch)
            chosen = choices.reduce(maps.time[:, 0])
            title = f"temporal attention of a patch, {choices.words}"
            save("temporal", temporal_figure(pictures, chosen, patch, config.patch_shape, title))

    def rollout() -> None:
        maps, own = attention_rollout(model, params, pixel_values)
        arrays["rollout"], arrays["rollout_of_cls"] = maps[0], own[0]
        title = f"attention rollout: where CLS comes from ({own[0]:.1%} from itself)"
        over_frames("rollout", maps[0], "share / even share", title, (1 - own[0]) / maps[0].size)

    def relevance() -> None:
        classes = None if choices.target is None else [choices.target]
        maps, logits = class_relevance(model, params, pixel_values, classes)
        index = int(logits[0].argmax()) if choices.target is None else choices.target
        arrays["relevance"], arrays["relevance_class"], arrays["logits"] = maps[0], np.array(index), logits[0]
        title = f"relevance for {config.id2label[index]!r} (logit {logits[0, index]:.2f})"
        over_frames("relevance", maps[0], "relevance / largest", title, float(maps[0].max()) or 1.0)

    def embeddings() -> None:
        save("embeddings", embedding_figure(model, params))

    steps: dict[str, Callable[[], None]] = {
        "attention": attention, "temporal": attention, "rollout": rollout, "relevance": relevance,
        "embeddings": embeddings,
    }  # fmt: skip
    for run in dict.fromkeys(steps[method] for method in methods):
        run()
    with write_atomically(directory / "arrays.npz") as temporary:
        np.savez(temporary, **cast(dict[str, Any], arrays))
    return [*files, directory / "arrays.npz"]
