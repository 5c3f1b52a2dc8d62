"""All pictures of one clip into one directory: what `timesformer visualize` writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8

from ..support.files import write_atomically
from .choices import Choices, Method
from .figures import save_figure
from .methods import interpret_clip
from .video_encoder import VideoEncoder


def draw(
    encoder: VideoEncoder,
    frames: UInt8[np.ndarray, "t h w 3"],
    directory: Path,
    methods: Sequence[Method],
    choices: Choices,
    *,
    animation: str | None = "gif",
) -> list[Path]:
    """Writes a picture for each method, an animation where frames move, and the numbers.

    Args:
        encoder: the model with its preprocessing.
        frames: what `encoder.read` gives.
        directory: where to; made if needed.
        methods: those that the model has.
        choices: what to look at.
        animation: "gif", "mp4" or None.

    Returns:
        The files. The numbers are in `arrays.npz`.
    """
    arrays: dict[str, np.ndarray] = {"frames": encoder.rgb(frames)}
    files: list[Path] = []
    for found in interpret_clip(encoder, frames, methods, choices):
        arrays |= found.arrays
        files.append(directory / f"{found.name}.png")
        save_figure(found.figure, files[-1])
        if animation is not None and found.animate is not None:
            files.append(directory / f"{found.name}.{animation}")
            found.animate(files[-1])
    with write_atomically(directory / "arrays.npz") as temporary:
        np.savez(temporary, **cast(dict[str, Any], arrays))
    return [*files, directory / "arrays.npz"]
