"""Mixup, cutmix, label smoothing and normalisation: pure functions of a batch, for the device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int, UInt8

from ..video.processing import VideoProcessor
from .config import Augmentation


def smooth_labels(labels: Int[Array, " b"], num_labels: int, smoothing: float = 0.0) -> Float[Array, "b labels"]:
    """Makes one-hot targets of which `smoothing` is spread evenly over all classes (Szegedy et al., 2016, section 7).

    A label outside of the classes (such as -100, which losses ignore) gives a row that is `smoothing / num_labels`
    everywhere.
    """
    return jax.nn.one_hot(labels, num_labels) * (1 - smoothing) + smoothing / num_labels


def mix_batch(
    key: Array,
    pixel_values: Float[Array, "b t h w c"],
    targets: Float[Array, "b labels"],
    augmentation: Augmentation,
) -> tuple[Float[Array, "b t h w c"], Float[Array, "b labels"]]:
    """Mixes each clip with its counterpart from the other end of the batch, by mixup or by cutmix.

    Both are one formula, `mask * clip + (1 - mask) * counterpart`: mixup's mask (Zhang et al., 2018) is the same number
    everywhere, cutmix's (Yun et al., 2019) is 0 inside a rectangle, the same in all frames, and 1 outside. The targets
    are mixed by the mean of the mask. Each clip draws its own.

    Args:
        key: random key with the step folded in.
        pixel_values: normalised clips.
        targets: the targets of the clips, from `smooth_labels`.
        augmentation: its `mixup`, `cutmix` and `mix_probability` are used.

    Returns:
        Clips and targets; unchanged where the settings ask for no mixing.
    """
    if not augmentation.mixup and not augmentation.cutmix:
        return pixel_values, targets
    batch, _, height, width, _ = pixel_values.shape
    choice_key, apply_key, mixup_key, cutmix_key, place_key = jax.random.split(key, 5)
    kept = 1 - rectangles(place_key, 1 - symmetric_beta(cutmix_key, augmentation.cutmix or 1.0, batch), height, width)
    mixup_share = symmetric_beta(mixup_key, augmentation.mixup or 1.0, batch)
    cutmix_clips = bool(augmentation.cutmix) / (bool(augmentation.mixup) + bool(augmentation.cutmix))
    cutmix = jax.random.uniform(choice_key, (batch,)) < cutmix_clips
    applied = jax.random.uniform(apply_key, (batch,)) < augmentation.mix_probability
    mask = jnp.where(cutmix[:, None, None], kept, mixup_share[:, None, None])
    share = jnp.where(cutmix, kept.mean(axis=(1, 2)), mixup_share)
    pixel_mask = jnp.where(applied[:, None, None], mask, 1)[:, None, :, :, None].astype(pixel_values.dtype)
    target_mask = jnp.where(applied, share, 1)[:, None].astype(targets.dtype)
    return (
        pixel_mask * pixel_values + (1 - pixel_mask) * pixel_values[::-1],
        target_mask * targets + (1 - target_mask) * targets[::-1],
    )


def symmetric_beta(key: Array, parameter: float, count: int) -> Float[Array, " {count}"]:
    """Draws numbers from Beta(parameter, parameter), by a table of its quantiles.

    (`jax.random.beta` draws by rejection; those loops take longer to compile than the rest of a training step.)
    """
    grid = np.linspace(0, 1, 4097)
    quantiles = scipy.special.betaincinv(parameter, parameter, grid)
    return jnp.interp(jax.random.uniform(key, (count,)), jnp.asarray(grid), jnp.asarray(quantiles))


def rectangles(key: Array, area: Float[Array, " b"], height: int, width: int) -> Float[Array, "b {height} {width}"]:
    """Makes masks: 1 inside rectangles that cover these shares of a picture and have its shape, 0 outside.

    The centre is uniform over the picture; what falls outside of it is cut off.
    """
    row_key, column_key = jax.random.split(key)

    def interval(key: Array, length: int) -> Array:
        centre = jax.random.uniform(key, area.shape, maxval=length)[:, None]
        half = (jnp.sqrt(area) * length / 2)[:, None]
        middles = jnp.arange(length) + 0.5
        return jnp.abs(middles - centre) < half

    inside = interval(row_key, height)[:, :, None] & interval(column_key, width)[:, None, :]
    return inside.astype(area.dtype)


def normalize(
    frames: UInt8[Array, "*b t height width c"], processor: VideoProcessor, dtype: Any
) -> Float[Array, "*b t height width c"]:
    """Normalises frames of 0 to 255 like `VideoProcessor.rescale_and_normalize`; only the last bits may differ."""
    if processor.channel_order == "bgr":
        frames = frames[..., ::-1]
    pixel_values = frames.astype(dtype) * (processor.rescale_factor if processor.do_rescale else 1)
    if processor.offset:
        pixel_values -= 1
    if not processor.do_normalize:
        return pixel_values
    return (pixel_values - jnp.asarray(processor.image_mean, dtype)) / jnp.asarray(processor.image_std, dtype)
