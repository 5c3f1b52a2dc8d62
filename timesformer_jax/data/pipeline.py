"""Grain at work: rows made in worker processes, in order, and put together to batches."""

import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from absl import flags

from ..errors import DataError, TrainingError
from .config import DataConfig

Batch = dict[str, np.ndarray]

_SMALLEST_SHARED = 2**16
"""Bytes from which an array comes from a worker through shared memory."""


class Rows(Protocol):
    """Rows by number, from 0 on."""

    def __getitem__(self, number: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class LocalRows:
    """The rows that one process of several takes from every batch.

    Attributes:
        rows: all rows; a batch is so many of them in a row.
        first_batch: the batch to begin with.
        batches: how many there are.
        batch_size: rows in a batch, over all processes.
        process_index: which part of each batch.
        process_count: in how many parts a batch is cut.
    """

    rows: Rows
    first_batch: int
    batches: int
    batch_size: int
    process_index: int
    process_count: int

    @property
    def local_size(self) -> int:
        """Rows of a batch in this process."""
        return self.batch_size // self.process_count

    def __len__(self) -> int:
        return self.batches * self.local_size

    def __getitem__(self, place: int) -> dict[str, Any]:
        batch, row = divmod(place, self.local_size)
        return self.rows[(self.first_batch + batch) * self.batch_size + self.process_index * self.local_size + row]


def require_parts(batch_size: int, process_index: int, process_count: int) -> None:
    """Refuse a batch that can't be shared out.

    Raises:
        DataError: if it can't.
    """
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise DataError(f"A batch of {batch_size} can't be shared out equally to {process_count} processes.")
    if not 0 <= process_index < process_count:
        raise DataError(f"There is no process {process_index} among {process_count}; they count from 0.")


def refuse_in_worker() -> None:
    """Keeps a worker process, which imports the script that started it, from doing what the script does.

    Raises:
        DataError: this is such a process.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise DataError(
            'the processes that decode videos import your script: put what it does under `if __name__ == "__main__":`, '
            "or set workers=0."
        )


class Batches(Iterator[Batch]):
    """Rows put together to batches, which are made ahead of their use. It needs its `close` called."""

    def __init__(self, rows: LocalRows, config: DataConfig) -> None:
        """Starts to make them.

        Args:
            rows: those of this process.
            config: workers and prefetch are used.
        """
        import grain

        refuse_in_worker()
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers ask for flags, and nothing here is started through absl
        workers = (os.cpu_count() or 1) if config.workers is None else config.workers
        if workers:
            reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        else:
            threads = os.cpu_count() or 1
            reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, config.prefetch))
        source: Any = rows
        dataset: Any = grain.MapDataset.source(source).to_iter_dataset(reading)
        if workers:
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=config.prefetch)
            shared = grain.experimental.DatasetOptions(min_shm_size=_SMALLEST_SHARED)
            dataset = grain.experimental.WithOptionsIterDataset(dataset, shared)
            dataset = dataset.mp_prefetch(options, worker_init_fn=prepare_worker)
        dataset = dataset.batch(rows.local_size, drop_remainder=True)
        self._iterator: Any = iter(grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=1))

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            TrainingError: a worker process was ended from outside.
        """
        try:
            return next(self._iterator)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):  # Grain has no type of its own for it
                raise
            raise TrainingError(
                "a process that decodes videos has ended unexpectedly; what it said stands above. If it said nothing, "
                "memory may have run out: take fewer with --data.workers, or --data.prefetch 1."
            ) from error

    def close(self) -> None:
        """Ends the worker processes."""
        self._iterator.close()


def prepare_worker(index: int, count: int) -> None:
    """Let a worker process leave the accelerators alone, and end with its parent."""
    import jax  # which Grain has imported already

    jax.config.update("jax_platforms", "cpu")
    # Whoever stops the run stops its workers; a signal to the whole group must not end them before.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a parent that was killed tells nobody, and Grain's workers would wait for ever
