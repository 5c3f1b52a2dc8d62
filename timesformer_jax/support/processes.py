"""Which processes a job has: as options say, or as the surroundings tell."""

import dataclasses
import importlib.util
import itertools
import os
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """The processes of the job.

    Attributes:
        cluster: what tells each process about the others: "auto" looks for Slurm (a step of several tasks) and Cloud
            TPU; "none" runs alone, whatever there is. Not needed with a coordinator.
        coordinator: address:port of process 0, where the cluster does not tell it.
        count: how many processes there are, with a coordinator.
        index: which of them this is, from 0, with a coordinator.
    """

    cluster: Literal["auto", "slurm", "tpu", "none"] = "auto"
    coordinator: str | None = None
    count: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.coordinator, self.count, self.index)]
        if any(given) and not all(given):
            raise ConfigError("processes.coordinator, processes.count and processes.index belong together; give all.")
        if self.coordinator is None or self.count is None or self.index is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"processes.coordinator is {self.coordinator!r}; give address:port, such as node-0:1234.")
        if not 0 <= self.index < self.count:
            raise ConfigError(f"processes.index is {self.index}, but counts from 0 to processes.count - 1.")


def jax_settings(options: ProcessOptions) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`; None where this process is alone."""
    if options.coordinator is not None:
        return {
            "coordinator_address": options.coordinator,
            "num_processes": options.count,
            "process_id": options.index,
            "cluster_detection_method": "deactivate",
        }
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if options.cluster == "slurm" or (options.cluster == "auto" and tasks > 1):
        if "SLURM_STEP_NODELIST" not in os.environ:
            raise ConfigError("processes.cluster is slurm, but this is no task of a Slurm step; start it by srun.")
        return {"cluster_detection_method": "slurm"}
    if options.cluster == "tpu" or (options.cluster == "auto" and _on_tpu()):
        return {}  # by libtpu's own metadata, also for a single machine
    return None


def _on_tpu() -> bool:
    """Whether this machine has TPU chips that the job uses."""
    if os.environ.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return False
    if len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:  # set by GKE
        return True
    chips = itertools.chain(Path("/dev").glob("accel[0-9]*"), Path("/dev/vfio").glob("[0-9]*"))
    return importlib.util.find_spec("libtpu") is not None and any(chips)
