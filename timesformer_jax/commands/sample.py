"""`timesformer sample`: writes a random checkpoint and a video to try the commands on."""

import dataclasses
from pathlib import Path

import tyro

from ..support.progress import say, show_progress
from .options import Command, Flag


@dataclasses.dataclass(frozen=True)
class Sample(Command):
    """Write a checkpoint with RANDOM weights and a short video, to try the commands on.

    Attributes:
        directory: where to; gets `checkpoint/` in Transformers' format and `video.mp4`.
        preset: which published model's architecture.
        seed: of the weights.
        overwrite: replace an existing directory.
    """

    directory: tyro.conf.Positional[Path]
    preset: str = "base-k400"
    seed: int = 0
    overwrite: Flag = False

    def run(self) -> int:
        """Writes both, and prints the command that uses them."""
        from ..demo.sample import write_sample

        with show_progress(f"making a checkpoint with random weights and a video in {self.directory}"):
            checkpoint, video = write_sample(self.directory, self.preset, seed=self.seed, overwrite=self.overwrite)
        say("The weights are random: the labels mean nothing, but are those that PyTorch would give. Try")
        print(f"timesformer classify {video} --model {checkpoint}")
        return 0
