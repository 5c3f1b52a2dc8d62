"""Reading ahead: what is needed next is made by other threads, a bounded number of steps ahead, in order."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], workers: int, most: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with what `read` makes of it, in order; `workers` threads are at most `most` items ahead."""
    remaining = iter(items)
    pending: collections.deque[tuple[Item, Future[Result]]] = collections.deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="reader")
    try:
        while True:
            for item in itertools.islice(remaining, max(most, workers) - len(pending)):
                pending.append((item, pool.submit(read, item)))
            if not pending:
                return
            item, future = pending.popleft()
            yield item, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def step_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items of an iterator, the next of which is made in a thread while one is worked on."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        upcoming = pool.submit(next, items, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, items, end)
            yield item  # pyright: ignore[reportReturnType]


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, and what is left."""
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
