"""Resizes position embeddings to another grid of patches, and time embeddings to another number of frames."""

import numpy as np
from jaxtyping import Array, Float


def resize_bicubic(
    embedding: Float[np.ndarray, "n d"], source: tuple[int, int], target: tuple[int, int]
) -> Float[np.ndarray, "m d"]:
    """Resizes the position embeddings of a grid of patches (rows, columns) to another grid by bicubic interpolation.

    The values are those of PyTorch's `interpolate(mode="bicubic", align_corners=False)`, which Transformers' ViT and
    timm use (timm blurs first when it makes the grid smaller). They are computed in float64 and returned in the
    embedding's type.
    """
    rows, columns = (_weights(*sizes) for sizes in zip(source, target, strict=True))
    grid = embedding.astype(np.float64).reshape(*source, -1)
    resized = np.einsum("ui,ijd,vj->uvd", rows, grid, columns, optimize=True)
    return resized.reshape(-1, embedding.shape[1]).astype(embedding.dtype)


def _weights(source: int, target: int) -> Float[np.ndarray, "target source"]:
    """The weight of each source row in each target row: four neighbours, where the edge stands for those beyond it."""
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((target, source))
    for offset in range(4):
        row = first + offset
        np.add.at(weights, (np.arange(target), np.clip(row, 0, source - 1)), _keys(np.abs(centres - row)))
    return weights


def _keys(distance: Float[np.ndarray, " n"], a: float = -0.75) -> Float[np.ndarray, " n"]:
    """The cubic convolution kernel (Keys, 1981) for distances from 0 to 2, with PyTorch's parameter."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def nearest_indices(source: int, target: int) -> np.ndarray:
    """The source row from which each target row i is taken: floor(i * source / target).

    This is PyTorch's "nearest" (what the reference resizes its embeddings with); `jax.image.resize` takes the centres
    of rows and picks others. Whole numbers keep rounding from moving an index: PyTorch's own product, in floating
    point, falls one short at a few sizes (14 -> 46 is one).
    """
    return np.arange(target) * source // target


def resize_space_embedding(
    embedding: Float[Array | np.ndarray, "n d"], source: tuple[int, int], target: tuple[int, int]
) -> Float[Array | np.ndarray, "m d"]:
    """Resizes the position embeddings of a grid of patches (rows, columns) to another grid by nearest neighbour."""
    if source == target:
        return embedding
    rows, columns = (nearest_indices(*sizes) for sizes in zip(source, target, strict=True))
    return embedding[(rows[:, None] * source[1] + columns).ravel()]


def resize_time_embedding(embedding: Float[Array | np.ndarray, "t d"], target: int) -> Float[Array | np.ndarray, "u d"]:
    """Resizes the time embeddings to another number of frames by nearest neighbour."""
    source = embedding.shape[0]
    return embedding if source == target else embedding[nearest_indices(source, target)]
