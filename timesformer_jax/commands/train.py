"""`timesformer train`: trains a model on videos."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..support.distributed import ProcessOptions, is_first, joined
from ..support.dtypes import enable_x64
from ..support.progress import say
from ..training.recipe import RECIPES, TrainConfig
from ..training.stopping import StopRequest
from .options import Command, Flag


def _description(name: str, recipe: TrainConfig) -> str:
    """Describes a recipe in the list of them."""
    model = recipe.model
    match name:
        case "finetune":
            return f"Fine-tune a published model, {model.checkpoint} when no other is named, on videos of your own."
        case "motion":
            return "The demo's tiny model for videos of moving shapes: about two minutes on two cores."
        case _:
            size, data = name.split("-")
            full = {"k400": "Kinetics-400", "k600": "Kinetics-600", "ssv2": "Something-Something V2"}[data]
            return f"The paper's {size} model for {full}: {model.num_frames} frames of {model.image_size} pixels."


if TYPE_CHECKING:
    Recipe = TrainConfig
else:
    Recipe = tyro.extras.subcommand_type_from_defaults(
        RECIPES, {name: _description(name, recipe) for name, recipe in RECIPES.items()}, prefix_names=False
    )


@dataclasses.dataclass(frozen=True)
class Train(Command):
    """Train a model, or go on with a run that was stopped or killed: the same command does both.

    Ctrl-C and SIGTERM save a checkpoint and end with 0.

    Attributes:
        config: the recipe.
        output: directory of the run.
        profile: write a trace of a few steps for xprof.
        processes: the processes of the job, where there are several.
    """

    config: Annotated[Recipe, tyro.conf.arg(name="")]
    output: Path
    profile: Flag = False
    processes: ProcessOptions = dataclasses.field(default_factory=ProcessOptions)

    def run(self) -> int:
        """Trains until the last step, or until it is asked to stop."""
        with StopRequest().listening() as stop:
            enable_x64(self.config.model.dtype)
            with joined(self.processes):
                from ..training.loop import train

                result = train(self.config, self.output, profile=self.profile, stop=stop)
                first = is_first()
        if result.finished and first:
            say(f"finished; the trained model is in {result.export}")
        return 0
