"""`timesformer motion`: videos whose class lies in the motion alone."""

import dataclasses
from pathlib import Path

import tyro

from ..data.motion import MotionTask
from ..support.progress import say
from .options import Command, Flag


@dataclasses.dataclass(frozen=True)
class Motion(Command):
    """Make a data set of small videos whose class lies in the motion alone; see docs/motion.md.

    Attributes:
        directory: the directory to write; gets train/CLASS/*.mp4 and test/CLASS/*.mp4.
        task: what moves, and how hard that is to see.
        train: number of training videos.
        test: number of test videos.
        seed: seed of everything random.
        overwrite: replace an existing directory.
    """

    directory: tyro.conf.Positional[Path]
    task: MotionTask = dataclasses.field(default_factory=MotionTask)
    train: int = 2400
    test: int = 480
    seed: int = 0
    overwrite: Flag = False

    def run(self) -> int:
        """Writes the videos, and prints the command that trains on them."""
        from ..data.motion import write_motion

        write_motion(
            self.directory, self.task, train=self.train, test=self.test, seed=self.seed, overwrite=self.overwrite
        )
        say(f"wrote {self.train} training and {self.test} test videos; try")
        print(
            f"timesformer train motion --data.train {self.directory}/train --data.validation {self.directory}/test "
            "--output run"
        )
        return 0
