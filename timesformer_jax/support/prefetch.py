"""Prefetching: other threads make what is needed next, in order and never more than a bounded number of items."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    items: Iterable[Item], function: Callable[[Item], Result], workers: int, most: int
) -> Iterator[tuple[Item, Result]]:
    """Yields each item with the function's result, in order; `workers` threads prefetch at most `most` of them."""
    remaining = iter(items)
    pending: collections.deque[tuple[Item, Future[Result]]] = collections.deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        while True:
            for item in itertools.islice(remaining, max(most, workers) - len(pending)):
                pending.append((item, pool.submit(function, item)))
            if not pending:
                return
            item, future = pending.popleft()
            yield item, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the items of an iterator, the next of which is made in a thread while one is worked on."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        upcoming = pool.submit(next, items, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, items, end)
            yield item  # pyright: ignore[reportReturnType]


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yields lists of `size` items, and what is left as a shorter one."""
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
