"""`timesformer export`: a classifier for use without this package."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..support.dtypes import Weights
from ..support.progress import say, show_progress
from .options import Command, Flag, Loading


@dataclasses.dataclass(frozen=True)
class Export(Command):
    """Write a classifier as files that run without this package: a serialized jax.export function and its weights.

    Attributes:
        checkpoint: a converted or Transformers directory, a weights file, or a Hub id.
        destination: the directory to make.
        platforms: those that it shall run on.
        batch_size: clips in a batch; any number when not given. Older versions of JAX can read the program of a fixed
            batch, where they can't read one of any size.
        dtype: type of the computation.
        weights: type of the stored weights; int8 takes a quarter of float32's memory.
        overwrite: replace an earlier export.
        loading: how the checkpoint is loaded.
    """

    checkpoint: tyro.conf.Positional[str]
    destination: tyro.conf.Positional[Path]
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] = ("cpu", "cuda", "tpu")
    batch_size: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    weights: Weights = "float"
    overwrite: Flag = False
    loading: Annotated[Loading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Loading)

    def run(self) -> int:
        """Exports, and prints the command that runs the result."""
        from ..inference.classifier import VideoClassifier
        from ..inference.export import SCRIPT, export_classifier

        with show_progress(f"loading {self.checkpoint}"):
            classify = VideoClassifier.from_pretrained(
                self.checkpoint, dtype=self.dtype, weights=self.weights, **self.loading.options()
            )
        with show_progress(f"exporting for {', '.join(self.platforms)}"):
            size = export_classifier(
                classify,
                self.destination,
                platforms=self.platforms,
                batch_size=self.batch_size,
                overwrite=self.overwrite,
            )
        say(f"the function takes {size / 1e6:.1f} MB beside the weights; try it on a numpy file of uint8 clips with")
        print(f"python {self.destination / SCRIPT} clips.npy")
        return 0
