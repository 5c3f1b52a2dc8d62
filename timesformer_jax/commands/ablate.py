"""`timesformer ablate`: compares variants of a model, what they learn and what they cost."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..ablation.variants import SetName, variants_of
from ..data.config import Views
from ..data.motion import MotionTask
from ..support.progress import say, show_progress
from ..training.recipe import RECIPES, TrainConfig
from ..training.stopping import StopRequest
from .options import Command

if TYPE_CHECKING:
    Recipe = TrainConfig
else:
    Recipe = tyro.extras.subcommand_type_from_defaults(RECIPES, prefix_names=False)


@dataclasses.dataclass(frozen=True)
class Ablate(Command):
    """Train variants of a recipe with the same budget from the same seeds, measure what each costs, and write a report.

    The same command goes on where it was stopped or killed; more sets and seeds may be asked for later. The recipe
    motion makes its own videos; the others need --data.train and --data.validation.

    Attributes:
        config: the recipe that is varied; --steps is the budget of each training, and --seeds take the place of --seed.
        output: directory for results, runs and report.
        sets: of variants: attention schemes, position embeddings, order of divided attention's steps, frames of a clip,
            size of the crop.
        seeds: of videos, weights and order, the same for all variants; without any, only costs are measured.
        minutes: budget of each training in place of steps; as many steps as that allows at the measured speed.
        frames: of the set "frames"; half of the recipe's, its own and twice its own when not given.
        sizes: pixels, of the set "size"; the recipe's, one and a half and two times that when not given.
        task: what moves in the videos of the recipe motion.
        train_videos: of the recipe motion.
        test_videos: of the recipe motion.
        crops: of each test video, averaged: 1 in the centre, 3 along its long side.
    """

    config: Annotated[Recipe, tyro.conf.arg(name="")]
    output: Path
    sets: tuple[SetName, ...] = ("schemes",)
    seeds: tuple[int, ...] = (0, 1, 2)
    minutes: float | None = None
    frames: tuple[int, ...] | None = None
    sizes: tuple[int, ...] | None = None
    task: MotionTask = dataclasses.field(default_factory=MotionTask)
    train_videos: int = 2400
    test_videos: int = 480
    crops: int = 3

    def run(self) -> int:
        """Computes what has not been computed before, and writes the report."""
        with StopRequest().listening() as stop:
            from ..ablation.ablate import Ablation, MotionVideos, ablate

            ablation = Ablation(
                self.config,
                self.output.expanduser().absolute(),
                variants_of(self.sets, self.config.model, frames=self.frames, sizes=self.sizes),
                seeds=self.seeds,
                minutes=self.minutes,
                motion=MotionVideos(self.task, self.train_videos, self.test_videos),
                views=Views(crops=self.crops),
            )
            results = ablate(ablation, stop=stop)
        if results is None:
            return 0
        with show_progress("writing the report"):
            from ..ablation.report import write_report

            report = write_report(ablation, results)
        failed = [
            (variant, error) for variant in ablation.variants if (error := results.error(variant.key, self.seeds))
        ]
        for variant, error in failed:
            say(f"failed: {variant.set}, {variant.name}: {error}")
        print(report)
        return 1 if failed else 0
