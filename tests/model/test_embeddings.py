"""Patches, and nearest-neighbour resizing against PyTorch's."""

import jax.numpy as jnp
import numpy as np
import pytest
from pytorch import functional, torch
from reference import TINY, assert_close

from timesformer_jax import TimesformerConfig
from timesformer_jax.model.embeddings import check_pixel_values, extract_patches
from timesformer_jax.position_embeddings import nearest_indices, resize_space_embedding, resize_time_embedding


def test_patches_are_cut_row_by_row():
    shape = (2, 5, 6, 8, 3)
    pixels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    patches = np.asarray(extract_patches(jnp.asarray(pixels), (3, 2)))
    assert patches.shape == (2, 2 * 4, 5, 3, 2, 3)
    for row in range(2):
        for column in range(4):
            expected = pixels[:, :, 3 * row : 3 * row + 3, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(patches[:, 4 * row + column], expected)


@pytest.mark.usefixtures("x64")
def test_patches_and_a_product_are_the_convolution():
    rng = np.random.default_rng(0)
    pixels, kernel = rng.normal(size=(2, 5, 6, 8, 3)), rng.normal(size=(24, 3, 3, 2))
    actual = jnp.einsum("bntyxc,dcyx->btnd", extract_patches(jnp.asarray(pixels), (3, 2)), kernel)
    frames = torch.from_numpy(pixels).flatten(0, 1).permute(0, 3, 1, 2)
    expected = functional.conv2d(frames, torch.from_numpy(kernel), stride=(3, 2)).flatten(2).mT.unflatten(0, (2, 5))
    assert_close(actual, expected, 1e-14, "projected patches")  # sums of 18 terms


def pytorch_indices(source: int, target: int) -> np.ndarray:
    """The rows that PyTorch's one-dimensional nearest takes, as for the time embeddings."""
    rows = torch.arange(source, dtype=torch.float64).view(1, 1, source)
    return functional.interpolate(rows, size=target, mode="nearest").view(-1).long().numpy()


def pytorch_indices_2d(source: int, target: int) -> np.ndarray:
    """... and its two-dimensional one, along one axis, as for the position embeddings."""
    rows = torch.arange(source, dtype=torch.float64).view(1, 1, source, 1).expand(1, 1, source, 2)
    return functional.interpolate(rows, size=(target, 2), mode="nearest")[0, 0, :, 0].long().numpy()


SIZES = range(1, 65)  # 64 patches a side are 1,024 pixels

# Where PyTorch's index in two dimensions, a product of floating-point numbers, falls just below a whole one.
PYTORCH_FALLS_SHORT = {
    *((14, 46), (28, 46), (56, 46), (30, 58), (60, 58), (58, 54), (54, 38), (39, 33)),
    *((26, 22), (26, 44), (52, 22), (52, 44), (62, 14), (62, 28), (62, 56)),
}


@pytest.mark.parametrize(
    ("interpolate", "exceptions"),
    [(pytorch_indices, set()), (pytorch_indices_2d, PYTORCH_FALLS_SHORT)],
    ids=["one-dimension", "two-dimensions"],
)
def test_nearest_indices_equal_pytorch(interpolate, exceptions):
    different = {}
    for source in SIZES:
        for target in SIZES:
            ours, theirs = nearest_indices(source, target), interpolate(source, target)
            assert ours.tolist() == [i * source // target for i in range(target)], (source, target)
            if (ours != theirs).any():
                different[source, target] = set((ours - theirs).tolist())
    assert different == {sizes: {0, 1} for sizes in exceptions}


@pytest.mark.parametrize(("source", "target"), [((3, 3), (5, 7)), ((2, 6), (4, 3)), ((4, 4), (2, 8)), ((3, 3), (1, 1))])
def test_space_embedding_is_resized_in_two_dimensions(source, target):
    embedding = np.random.default_rng(0).normal(size=(source[0] * source[1], 24)).astype(np.float32)
    grid = torch.from_numpy(embedding).mT.reshape(1, 24, *source)
    expected = functional.interpolate(grid, size=target, mode="nearest")[0].flatten(1).mT.numpy()
    np.testing.assert_array_equal(resize_space_embedding(jnp.asarray(embedding), source, target), expected)


@pytest.mark.parametrize("target", [1, 3, 5, 8, 12, 96])
def test_time_embedding_is_resized(target):
    embedding = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float32)
    expected = functional.interpolate(torch.from_numpy(embedding).T[None], size=target, mode="nearest")[0].T.numpy()
    np.testing.assert_array_equal(resize_time_embedding(jnp.asarray(embedding), target), expected)


def test_embeddings_of_the_right_size_stay():
    embedding = jnp.ones((6, 24))
    assert resize_space_embedding(embedding, (2, 3), (2, 3)) is embedding
    assert resize_time_embedding(embedding, 6) is embedding


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 5, 12, 12, 3), "uint8", r"uint8.*VideoProcessor|VideoProcessor.*uint8"),
        ((2, 5, 12, 12, 3), "int32", "int32.*VideoProcessor"),
        ((2, 5, 3, 12, 12), "float32", r"transpose\(0, 1, 3, 4, 2\)"),
        ((5, 12, 12, 3), "float32", r"\(5, 12, 12, 3\).*pixel_values\[None\]"),
        ((1, 2, 5, 12, 12, 3), "float32", r"\(batch, frames, height, width, channels\)"),
        ((2, 5, 12, 12, 4), "float32", "num_channels = 3"),
        ((2, 5, 13, 12, 3), "float32", r"height 13.*patches of 4"),
        ((2, 5, 12, 6, 3), "float32", r"width 6.*patches of 4"),
        ((2, 5, 0, 12, 3), "float32", "height 0"),
        ((2, 0, 12, 12, 3), "float32", "no frames"),
    ],
)
def test_wrong_pixel_values_are_refused(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        check_pixel_values(jnp.zeros(shape, dtype), TimesformerConfig(**TINY))


@pytest.mark.parametrize("shape", [(2, 5, 12, 12, 3), (1, 1, 4, 4, 3), (3, 96, 8, 20, 3)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_right_pixel_values_are_taken(shape, dtype):
    check_pixel_values(jnp.zeros(shape, dtype), TimesformerConfig(**TINY))
