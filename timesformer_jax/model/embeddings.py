"""Patches, space embedding and time embedding as pure functions (section 3, equation 1 of the paper)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..config import TimesformerConfig
from ..errors import VideoError


def extract_patches(
    frames: Float[Array, "b t height width c"], patch_shape: tuple[int, int]
) -> Float[Array, "b n t y x c"]:
    """Cuts each frame into patches, row by row of the grid.

    A convolution whose stride is its kernel is this and a matrix product, which every device does best.
    """
    batch, num_frames, height, width, channels = frames.shape
    rows, columns = height // patch_shape[0], width // patch_shape[1]
    blocks = frames.reshape(batch, num_frames, rows, patch_shape[0], columns, patch_shape[1], channels)
    return jnp.einsum("btiyjxc->bijtyxc", blocks).reshape(batch, rows * columns, num_frames, *patch_shape, channels)


def patch_grid(pixel_values: Array | np.ndarray, config: TimesformerConfig) -> tuple[int, int]:
    """Rows and columns of patches in the frames of clips (b, t, height, width, c)."""
    return pixel_values.shape[2] // config.patch_shape[0], pixel_values.shape[3] // config.patch_shape[1]


def check_pixel_values(pixel_values: Array | np.ndarray, config: TimesformerConfig, *, uint8: bool = False) -> None:
    """Refuses what is no batch of clips for this config: of normalised ones, or of uint8 frames.

    Raises:
        VideoError: another layout, type or size; the message says what to do.
    """
    shape = pixel_values.shape
    if pixel_values.ndim != 5:
        raise VideoError(
            f"pixel_values must be (batch, frames, height, width, channels), not of shape {shape}; "
            "a single clip needs pixel_values[None]."
        )
    if shape[4] != config.num_channels and shape[2] == config.num_channels:
        raise VideoError(
            f"pixel_values of shape {shape} have their channels first, as PyTorch does; channels come last here: "
            "pixel_values.transpose(0, 1, 3, 4, 2)."
        )
    if shape[4] != config.num_channels:
        raise VideoError(f"pixel_values of shape {shape} must have num_channels = {config.num_channels} channels last.")
    if uint8 and pixel_values.dtype != jnp.uint8:
        raise VideoError(
            f"frames must be uint8, as VideoProcessor.resize_and_crop gives them, not {pixel_values.dtype}: this model "
            "does the rest of the preprocessing itself."
        )
    if not uint8 and not jnp.issubdtype(pixel_values.dtype, jnp.floating):
        raise VideoError(
            f"pixel_values must be normalised floating-point frames, not {pixel_values.dtype}; VideoProcessor makes "
            "them from uint8 frames."
        )
    for name, side, patch in zip(("height", "width"), shape[2:4], config.patch_shape, strict=True):
        if side < patch or side % patch:
            raise VideoError(
                f"pixel_values have {name} {side}, which patches of {patch} do not divide; resize or crop the frames."
            )
    if shape[1] == 0:
        raise VideoError(f"pixel_values of shape {shape} hold no frames.")
