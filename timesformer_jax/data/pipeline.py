"""Grain at work: samples are made in worker processes, in order, and stacked to batches."""

import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from ..errors import DataError, TrainingError
from .config import DataConfig
from .samples import Sample, Samples

Batch = dict[str, np.ndarray]

_SMALLEST_SHARED = 2**16
"""Bytes from which an array comes from a worker through shared memory."""


class Batches(Iterator[Batch]):
    """The part of each batch that one process of several takes, made by worker processes before it is asked for.

    The workers start with the first batch; `close` must be called to end them.

    Attributes:
        number: number of the next batch; may be set while no worker runs.
    """

    def __init__(
        self,
        samples: Samples,
        config: DataConfig,
        *,
        batch_size: int,
        total: int,
        share: tuple[int, int],
    ) -> None:
        """Starts nothing yet.

        Args:
            samples: all samples; a batch is `batch_size` of them in a row.
            config: its `workers` and `prefetch` are used.
            batch_size: samples in a batch, over all processes.
            total: how many samples there are; what the last batch lacks is asked for beyond them.
            share: which part of each batch to take, and in how many equal parts it is cut.

        Raises:
            DataError: a batch can't be shared out like this.
        """
        index, count = share
        if batch_size < 1 or count < 1 or batch_size % count:
            raise DataError(f"A batch of {batch_size} can't be shared out equally to {count} processes.")
        if not 0 <= index < count:
            raise DataError(f"There is no process {index} among {count}; they count from 0.")
        self.number = 0
        self._samples, self._config, self._end = samples, config, -(-total // batch_size)
        self._batch_size, self._share = batch_size, share
        self._iterator: Any = None

    def __next__(self) -> Batch:
        """Gives the next batch.

        Raises:
            DataError: too many videos can't be decoded.
            TrainingError: a worker process was ended from outside.
        """
        if self._iterator is None:
            if self.number >= self._end:
                raise StopIteration
            batches = self._end - self.number
            samples = LocalSamples(self._samples, self.number, batches, self._batch_size, *self._share)
            self._iterator = _start(samples, self._config)
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):  # Grain has no type of its own for it
                raise
            raise TrainingError(
                "a process that decodes videos has ended unexpectedly; what it said stands above. If it said nothing, "
                "memory may have run out: take fewer with --data.workers, or --data.prefetch 1."
            ) from error
        self.number += 1
        return batch

    def close(self) -> None:
        """Ends the worker processes. The next batch would start them anew."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


@dataclasses.dataclass(frozen=True, eq=False)
class LocalSamples:
    """The samples that one process of several takes from every batch, by their place among its own.

    Attributes:
        samples: all samples; a batch is `batch_size` of them in a row.
        first_batch: the batch to begin with.
        batches: how many batches there are.
        batch_size: samples in a batch, over all processes.
        process_index: which part of each batch to take.
        process_count: in how many equal parts a batch is cut.
    """

    samples: Samples
    first_batch: int
    batches: int
    batch_size: int
    process_index: int
    process_count: int

    @property
    def local_size(self) -> int:
        """Samples of a batch in this process."""
        return self.batch_size // self.process_count

    def __len__(self) -> int:
        return self.batches * self.local_size

    def __getitem__(self, place: int) -> Sample:
        batch, within = divmod(place, self.local_size)
        first = (self.first_batch + batch) * self.batch_size + self.process_index * self.local_size
        return self.samples[first + within]


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


def _start(samples: LocalSamples, config: DataConfig) -> Any:
    """Starts the workers; gives Grain's iterator of batches."""
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
    source: Any = samples
    dataset: Any = grain.MapDataset.source(source).to_iter_dataset(reading)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=config.prefetch)
        shared = grain.experimental.DatasetOptions(min_shm_size=_SMALLEST_SHARED)
        dataset = grain.experimental.WithOptionsIterDataset(dataset, shared)
        dataset = dataset.mp_prefetch(options, worker_init_fn=prepare_worker)
    dataset = dataset.batch(samples.local_size, drop_remainder=True)
    return iter(grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=1))


def prepare_worker(index: int, count: int) -> None:
    """Lets a worker process leave the accelerators alone, and end with its parent."""
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
