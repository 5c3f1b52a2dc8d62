"""`timesformer evaluate`: how good a checkpoint is."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ..data.config import DataConfig, Views
from ..support.distributed import ProcessOptions, is_first, joined
from ..support.dtypes import DTypeName, enable_x64
from ..support.mesh_config import MeshConfig
from .options import Command, Loading


@dataclasses.dataclass(frozen=True)
class Evaluate(Command):
    """Evaluate a checkpoint on videos, as the paper does: three crops of one clip, logits averaged.

    Attributes:
        checkpoint: a converted or Transformers directory, a weights file, a training run, or a Hub id.
        data: the videos; give --data.validation.
        output: directory for predictions, table and confusion matrix; an evaluation that was stopped goes on from it.
        views: which views of each video are averaged.
        batch_size: videos in a batch, over all devices.
        dtype: type of the computation.
        mesh: how the devices share the work.
        processes: the processes of the job, where there are several.
        loading: how the checkpoint is loaded.
    """

    checkpoint: tyro.conf.Positional[str]
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    output: Path | None = None
    views: Annotated[Views, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Views)
    batch_size: int = 8
    dtype: DTypeName = "float32"
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    processes: ProcessOptions = dataclasses.field(default_factory=ProcessOptions)
    loading: Annotated[Loading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Loading)

    def run(self) -> int:
        """Evaluates, and prints a table."""
        enable_x64(self.dtype)
        with joined(self.processes):
            from ..evaluation.evaluate import evaluate

            evaluation = evaluate(
                self.checkpoint,
                self.data,
                views=self.views,
                batch_size=self.batch_size,
                dtype=self.dtype,
                mesh=self.mesh,
                output=self.output,
                **self.loading.options(),
            )
            first = is_first()
        if not first:
            return 0
        print(f"videos               {evaluation.videos}")
        if evaluation.unanswered.any():
            print(f"unanswered           {evaluation.unanswered.sum()}")
        if evaluation.undecodable:
            print(f"undecodable          {evaluation.undecodable}")
        print(f"top-1                {evaluation.top1:.2%}")
        print(f"top-5                {evaluation.top5:.2%}")
        print(f"mean class accuracy  {evaluation.mean_class_accuracy:.2%}")
        return 0
