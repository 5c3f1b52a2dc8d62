"""Groups, lattice and windows by themselves, against coordinates. (What attention makes of them: test_schemes.py.)"""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from numpy_timesformer import span
from scheme_figure import scheme_figure, seen_patches

from timesformer_jax.model.token_groups import (
    group,
    lattice_mask,
    num_groups,
    query_blocks,
    ungroup,
    window,
    window_block,
)

SIZES = [(2, 4, 6), (5, 3, 3), (4, 7, 2), (1, 5, 3), (1, 1, 1), (3, 1, 4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reach", ["row", "column", "lattice"])
def test_groups_hold_each_patch_once_and_come_back(reach: Any, size: tuple[int, int, int]) -> None:
    rows, columns, frames = size
    numbers = 1 + np.arange(rows * columns * frames).reshape(1, rows * columns, frames, 1)
    groups = np.asarray(group(jnp.asarray(numbers), reach, (rows, columns)))
    assert groups.shape[1] == num_groups(reach, (rows, columns), frames)
    kept = groups[groups > 0]
    assert sorted(kept) == list(range(1, numbers.size + 1))
    mask = lattice_mask((rows, columns), frames) if reach == "lattice" else None
    np.testing.assert_array_equal(groups[0, :, :, 0] > 0, np.ones(groups.shape[1:3]) if mask is None else mask)
    np.testing.assert_array_equal(ungroup(jnp.asarray(groups), reach, (rows, columns), frames), numbers)
    places = {number: (t, *divmod(p, columns)) for (_, p, t, _), number in np.ndenumerate(numbers)}
    for members in groups[0, :, :, 0]:
        coordinates = np.array([places[number] for number in members if number])
        differences = coordinates - coordinates[0]
        if reach == "lattice":
            assert not (differences % 2).any()
        else:
            assert not differences[:, [0, 1 if reach == "row" else 2]].any()


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
        inside = window_block((length, 1), (queries, slice(0, 1)), (keys, slice(0, 1)))
        assert inside.sum() == size * len(inside)


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
            "row": (frame, row) == place[:2],
            "column": (frame, column) == (place[0], place[2]),
            "lattice": all((a - b) % 2 == 0 for a, b in zip(other, place, strict=True)),
            "window": row in span(place[1], grid[0]) and column in span(place[2], grid[1]),
        }
        for reach, sees in expected.items():
            assert seen_patches(reach, grid, frames, place)[other] == sees, reach  # type: ignore[arg-type]
    figure = scheme_figure()
    assert len(figure.axes) == 5 * 5
