"""Prefetching: in order, bounded, and errors where they belong."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from timesformer_jax.support.prefetch import batched, prefetch, prefetch_map


def test_results_come_in_order_whatever_finishes_first() -> None:
    second_done = threading.Event()

    def read(item: int) -> int:
        if item == 0:
            assert second_done.wait(20)
        second_done.set()
        return item * item

    assert list(prefetch_map(range(6), read, workers=2, most=2)) == [(i, i * i) for i in range(6)]


def test_no_more_are_asked_for_than_allowed() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for i in itertools.count():
            asked.append(i)
            yield i

    results = prefetch_map(items(), lambda item: item, workers=2, most=3)
    for done in range(1, 20):
        next(results)
        assert len(asked) <= done + 2
    results.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_what_reading_raises_is_raised_in_its_place() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise KeyError(item)
        return item

    results = prefetch_map(range(5), read, workers=2, most=4)
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(KeyError):
        next(results)


def test_the_next_item_is_made_while_one_is_worked_on() -> None:
    made: list[int] = []
    waiting = threading.Event()

    def items() -> Iterator[int]:
        for i in range(4):
            made.append(i)
            if i == 1:
                waiting.set()
            yield i

    steps = prefetch(items())
    assert next(steps) == 0
    assert waiting.wait(20), "the next item is made while this one is worked on"
    assert list(steps) == [1, 2, 3]
    assert len(made) == 4


def test_batches() -> None:
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
