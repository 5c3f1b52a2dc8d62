"""Grain at work: samples are made in worker processes, in order, and stacked to batches."""

import dataclasses
import functools
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from ..errors import DataError, TrainingError
from ..support.progress import say
from .config import DataConfig
from .samples import Sample, Samples

Batch = dict[str, np.ndarray]

_SMALLEST_SHARED = 2**16
"""Bytes from which an array comes from a worker through shared memory."""

_SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps it. Containers often have 64 MiB there."""

_PAGE = 4096
"""Bytes by which it is given out."""


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
        sample_bytes: int = 0,
    ) -> None:
        """Starts nothing yet.

        Args:
            samples: all samples; a batch is `batch_size` of them in a row.
            config: its `workers` and `prefetch` are used.
            batch_size: samples in a batch, over all processes.
            total: how many samples there are; what the last batch lacks is asked for beyond them.
            share: which part of each batch to take, and in how many equal parts it is cut.
            sample_bytes: size of the frames of a sample.

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
        self._batch_size, self._share, self._sample_bytes = batch_size, share, sample_bytes
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
            needed = shared_bytes(self._config, samples.local_size, self._sample_bytes)
            self._iterator = _start(samples, self._config, needed)
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):  # Grain has no type of its own for it
                raise
            raise TrainingError(
                "a process that decodes videos has ended unexpectedly; what it said stands above. If it said nothing, "
                f"memory may have run out{_state_of_shared_memory()}: take fewer with --data.workers, or "
                "--data.prefetch 1; --data.workers 0 needs none."
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


def worker_count(config: DataConfig) -> int:
    """How many processes decode videos; 0 where threads do."""
    return (os.cpu_count() or 1) if config.workers is None else config.workers


def shared_bytes(config: DataConfig, local_size: int, sample_bytes: int) -> int:
    """How much shared memory the workers may take: what each holds ready and has in hand, and two batches.

    Args:
        config: its `workers` and `prefetch` are used.
        local_size: samples of a batch in this process.
        sample_bytes: size of the frames of a sample.
    """
    if sample_bytes < _SMALLEST_SHARED or not worker_count(config):
        return 0
    samples = worker_count(config) * (config.prefetch + 2) + 2 * local_size
    return samples * (sample_bytes + _PAGE)


def _has_room(needed: int) -> bool:
    """Whether there is so much shared memory; a process that writes more than there is is killed without a word."""
    if not _SHARED_MEMORY.is_dir() or shutil.disk_usage(_SHARED_MEMORY).free >= needed:
        return True
    _tell_of_small_memory(needed)
    return False


@functools.cache  # not at every validation
def _tell_of_small_memory(needed: int) -> None:
    size = -(-needed // 2**20)
    say(
        f"{_SHARED_MEMORY} has {shutil.disk_usage(_SHARED_MEMORY).free / 2**20:.1f} MiB free, and the processes that "
        f"decode videos may need {size}: clips go through pipes instead, which takes longer; more room comes from "
        f"`mount -o remount,size={2 * size}m {_SHARED_MEMORY}` or `docker run --shm-size={2 * size}m`, and "
        "--data.workers 0 needs none"
    )


def _state_of_shared_memory() -> str:
    if not _SHARED_MEMORY.is_dir():
        return ""
    usage = shutil.disk_usage(_SHARED_MEMORY)
    return (
        f", or the room in {_SHARED_MEMORY} ({usage.free / 2**20:.1f} of {usage.total / 2**20:.1f} MiB are free now; "
        f"`mount -o remount,size=... {_SHARED_MEMORY}` or `docker run --shm-size=...` gives more)"
    )


def _start(samples: LocalSamples, config: DataConfig, needed: int) -> Any:
    """Starts the workers, which may need so much shared memory; gives Grain's iterator of batches."""
    import grain

    refuse_in_worker()
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers ask for flags, and nothing here is started through absl
    workers = worker_count(config)
    if workers:
        reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    else:
        threads = os.cpu_count() or 1
        reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, config.prefetch))
    source: Any = samples
    dataset: Any = grain.MapDataset.source(source).to_iter_dataset(reading)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=config.prefetch)
        shared = grain.experimental.DatasetOptions(min_shm_size=_SMALLEST_SHARED if _has_room(needed) else 2**62)
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
