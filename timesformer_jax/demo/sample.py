"""A checkpoint with random weights and a synthetic video, to try the commands where no trained one is at hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from ..config import TimesformerConfig
from ..errors import ConfigError
from ..model.modeling import TimesformerForVideoClassification
from ..support.files import write_atomically
from ..video.processing import VideoProcessor
from ..video.writing import write_video


def write_sample(
    directory: Path, preset: str = "base-k400", *, seed: int = 0, overwrite: bool = False
) -> tuple[Path, Path]:
    """Writes a Transformers checkpoint with random weights, and a video of a few seconds.

    Args:
        directory: where to.
        preset: the architecture, one of `timesformer_jax.presets.PRESETS`.
        seed: of the weights.
        overwrite: replace an existing directory.

    Returns:
        The paths of the checkpoint's directory and of the video.

    Raises:
        ConfigError: the preset is unknown, or the directory exists.
    """
    config = TimesformerConfig.preset(preset)
    if directory.exists() and not overwrite:
        raise ConfigError(f"{directory} exists already; choose another name or pass --overwrite.")
    model = TimesformerForVideoClassification(config)
    height, width = config.image_shape
    # The parameters depend on the config alone: one small frame is enough to make them.
    clip = jnp.zeros((1, 1, *config.patch_shape, config.num_channels))
    params = jax.jit(model.init)(jax.random.key(seed), clip)["params"]
    with write_atomically(directory) as temporary:
        model.save_pretrained(temporary / "checkpoint", params)
        processor = VideoProcessor(size=min(height, width), crop_size=(height, width))
        processor.save_pretrained(temporary / "checkpoint")
        write_video(temporary / "video.mp4", moving_disc())
    return directory / "checkpoint", directory / "video.mp4"


def moving_disc(num_frames: int = 90, height: int = 240, width: int = 320) -> UInt8[np.ndarray, "t h w 3"]:
    """A bright disc that crosses a dim gradient from left to right."""
    rows, columns = np.mgrid[:height, :width]
    background = np.stack([rows * 80 // height, columns * 80 // width, np.full_like(rows, 60)], axis=-1)
    centres = np.linspace(0, width, num_frames)
    distance = np.hypot(rows - height / 2, columns - centres[:, None, None])
    disc = distance[..., None] < height / 6
    return np.where(disc, [240, 200, 60], background).astype(np.uint8)
