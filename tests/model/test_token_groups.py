"""Groups, lattice and windows by themselves, against coordinates. (What attention makes of them: test_schemes.py.)"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from numpy_timesformer import span
from scheme_figure import scheme_figure, seen_patches

from timesformer_jax.model.sparse_groups import query_blocks, window, window_masks
from timesformer_jax.model.token_groups import TokenGroups
from timesformer_jax.schemes import GroupKind

SIZES = [(2, 4, 6), (5, 3, 3), (4, 7, 2), (1, 5, 3), (1, 1, 1), (3, 1, 4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["time", "frame", "clip", "row", "column", "lattice"])
def test_groups_hold_each_patch_once_and_come_back(kind: GroupKind, size: tuple[int, int, int]) -> None:
    rows, columns, frames = size
    numbers = 1 + np.arange(rows * columns * frames).reshape(1, rows * columns, frames, 1, 1)
    cls = -jnp.ones((1, 1, 1, 1, 1), int)
    groups = TokenGroups(kind, (rows, columns), frames)
    (gathered,) = groups.gather(cls, jnp.asarray(numbers))
    found = np.asarray(gathered)[0, :, 0, :, 0]
    kept = found[found > 0]
    assert sorted(kept) == list(range(1, numbers.size + 1))
    (mask,) = groups.masks()
    if kind != "time":
        assert (found[:, 0] == -1).all(), "each group has a copy of CLS in front"
    np.testing.assert_array_equal(found != 0, np.ones(found.shape) if mask is None else mask[:, 0, 0])
    copies, patches = groups.scatter([gathered])
    np.testing.assert_array_equal(patches, numbers)
    assert copies is None if kind == "time" else copies.shape == (1, 1, len(found), 1, 1)
    places = {number: (t, *divmod(p, columns)) for (_, p, t, _, _), number in np.ndenumerate(numbers)}
    shared = {"time": [1, 2], "frame": [0], "clip": [], "row": [0, 1], "column": [0, 2]}
    for members in found:
        coordinates = np.array([places[number] for number in members if number > 0])
        differences = coordinates - coordinates[0]
        if kind == "lattice":
            assert not (differences % 2).any()
        else:
            assert not differences[:, shared[kind]].any()


@pytest.mark.parametrize("length", [*range(1, 12), 14, 28])
def test_blocks_of_queries_see_all_their_windows(length: int) -> None:
    size, starts = window(length)
    assert [range(start, start + size) for start in starts] == [span(place, length) for place in range(length)]
    blocks = query_blocks(length)
    assert [place for queries, _ in blocks for place in range(length)[queries]] == list(range(length))
    assert len(blocks) <= 4
    for queries, keys in blocks:
        seen = {place for query in range(length)[queries] for place in span(query, length)}
        assert seen == set(range(length)[keys])
    for mask in window_masks((length, 1), 1):
        assert mask is None or mask.sum() == size * len(mask)


def test_what_is_computed_is_little_more_than_the_windows() -> None:
    """On 14 x 14 places 31% of all pairs, where the windows are 25%; the bound of the docstring, on large grids."""

    def share(length: int) -> float:
        pairs = sum((q.stop - q.start) * (k.stop - k.start) for q, k in query_blocks(length))
        return (pairs / length**2) ** 2

    assert share(14) == pytest.approx(0.315, abs=1e-3)
    assert share(1024) < 0.40


def test_the_picture_shows_what_tokens_see() -> None:
    grid, frames, place = (5, 4), 3, (1, 2, 1)
    for frame, row, column in itertools.product(range(frames), *map(range, grid)):
        other = (frame, row, column)
        expected = {
            "time": (row, column) == place[1:],
            "frame": frame == place[0],
            "clip": True,
            "row": (frame, row) == place[:2],
            "column": (frame, column) == (place[0], place[2]),
            "lattice": all((a - b) % 2 == 0 for a, b in zip(other, place, strict=True)),
            "window": row in span(place[1], grid[0]) and column in span(place[2], grid[1]),
        }
        for kind, sees in expected.items():
            assert seen_patches(kind, grid, frames, place)[other] == sees, kind  # type: ignore[arg-type]
    figure = scheme_figure()
    assert len(figure.axes) == 5 * 5
