"""Ablations: variants of a recipe, each trained with the same budget from the same seeds, and what each costs.

    recipe = RECIPES["motion"]
    ablate(Ablation(recipe, Path("out"), variants_of(["schemes"], recipe.model), seeds=(0, 1, 2)))

settings.json     what is compared with what
results.jsonl     a line for the cost of each variant, and one for each (variant, seed); nothing is computed twice
videos/           where the recipe names none: those of data/motion.py, a set for each seed
runs/             the training runs (training/run_directory.py), each with its exported model
report.md, ...    see report.py
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.config import Views
from ..data.motion import SAMPLING_RATE, MotionTask, ensure_motion
from ..data.sources import open_data
from ..errors import ConfigError, DataError, TimesformerError
from ..support.agreement import flat
from ..support.files import read_json, write_atomically
from ..support.progress import say
from ..training.recipe import TrainConfig
from ..training.run_directory import FREE_TO_CHANGE, RunDirectory
from ..training.stopping import StopRequest
from .case import Answer, Case
from .process import Runner, in_own_process
from .results import Results
from .variants import Variant


@dataclasses.dataclass(frozen=True)
class MotionVideos:
    """Videos to make where the recipe names none.

    Attributes:
        task: what moves. A variant with clips of more or fewer frames sees the same movements in more or fewer.
        train: videos to train on.
        test: videos to evaluate on.
    """

    task: MotionTask = dataclasses.field(default_factory=MotionTask)
    train: int = 2400
    test: int = 480


@dataclasses.dataclass(frozen=True)
class Ablation:
    """What is compared with what.

    Attributes:
        recipe: what the variants change; its seed is not used.
        output: the directory.
        variants: the rows of the tables.
        seeds: of videos, weights and order; the same for all variants. Without any, the costs alone are measured.
        minutes: budget of each training, which becomes as many steps as the variant's measured speed allows; the
            recipe's steps when None.
        motion: the videos to make where the recipe names none.
        views: of each video, for the evaluation.
    """

    recipe: TrainConfig
    output: Path
    variants: Sequence[Variant]
    seeds: Sequence[int] = (0, 1, 2)
    minutes: float | None = None
    motion: MotionVideos = dataclasses.field(default_factory=MotionVideos)
    views: Views = dataclasses.field(default_factory=Views)

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds, default=0) < 0:
            raise ConfigError(f"seeds must be different numbers from 0 on, not {' '.join(map(str, self.seeds))}.")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"minutes must be above 0, not {self.minutes}.")
        data, rate = self.recipe.data, self.recipe.model.sampling_rate
        if data.train is None and (data.validation is not None or rate != SAMPLING_RATE):
            raise DataError("there are no training videos; give --data.train (only the recipe motion makes its own).")
        if data.train is not None and data.validation is None:
            raise DataError("there are no videos to evaluate on; give --data.validation.")

    @property
    def makes_videos(self) -> bool:
        """Whether the videos are made here."""
        return self.recipe.data.train is None

    def settings(self) -> dict[str, Any]:
        """What all results in a directory have in common."""
        recipe = dataclasses.asdict(self.recipe)
        del recipe["seed"]
        values = {"recipe": recipe, "minutes": self.minutes, "views": dataclasses.asdict(self.views)}
        if self.makes_videos:
            values["motion"] = dataclasses.asdict(self.motion)
        return json.loads(json.dumps(values))

    @property
    def first_seed(self) -> int:
        """The seed of the videos that costs are measured with."""
        return self.seeds[0] if self.seeds else 0

    def recipe_of(self, variant: Variant, seed: int, steps: int | None) -> TrainConfig:
        """The recipe of one training, whose videos are made if needed."""
        recipe = dataclasses.replace(variant.apply(self.recipe), seed=seed)
        if steps is not None:
            recipe = dataclasses.replace(recipe, steps=steps)
        if self.makes_videos:
            videos = self.videos(variant, seed)
            data = dataclasses.replace(recipe.data, train=str(videos / "train"), validation=str(videos / "test"))
            model = dataclasses.replace(recipe.model, sampling_rate=SAMPLING_RATE)  # of every frame
            recipe = dataclasses.replace(recipe, data=data, model=model)
        return recipe

    def videos(self, variant: Variant | None, seed: int) -> Path:
        """The directory of the videos for a variant, or for the recipe as it is (None); they are made if needed."""
        frames, of_clip = self.motion.task.frames, self.recipe.model.num_frames
        if variant is not None and of_clip is not None:
            frames = round(frames * variant.changes.get("num_frames", of_clip) / of_clip)
        task = dataclasses.replace(self.motion.task, frames=frames)
        directory = self.output / "videos" / f"seed-{seed}-frames-{frames}"
        ensure_motion(directory, task, train=self.motion.train, test=self.motion.test, seed=seed)
        return directory


def ablate(ablation: Ablation, *, stop: StopRequest | None = None, runner: Runner | None = None) -> Results | None:
    """Measures and trains what has not been done before. A variant that fails is noted, and the others go on.

    Args:
        ablation: what is compared with what.
        stop: asks to save and return; for callers that listen to signals.
        runner: computes a case; `in_own_process` when None.

    Returns:
        The results; None after a request to stop.

    Raises:
        ConfigError: the directory holds another ablation.
        DataError: the videos can't be used.
        RunError: another process works in the directory.
    """
    stop, runner = stop or StopRequest(), runner or in_own_process
    with RunDirectory(ablation.output).locked():
        _claim(ablation)
        _check_videos(ablation)
        results = Results(ablation.output / "results.jsonl")
        rows = {variant.key: variant for variant in ablation.variants}  # two rows may be the same model
        # Costs first, then seed by seed, so that there is something to compare early.
        cases = list(itertools.product((None, *ablation.seeds), rows.values()))
        for number, (seed, variant) in enumerate(cases, 1):
            if results.values(variant.key, seed) is not None:
                continue
            cost = results.values(variant.key, None)
            if seed is not None and cost is None:
                continue  # what can't be measured can't be trained
            what = "what it costs" if seed is None else f"training, seed {seed}"
            say(f"[{number} of {len(cases)}] {variant.set}, {variant.name}: {what}")
            try:
                answer = runner(_case(ablation, variant, seed, cost), stop)
            except TimesformerError as error:  # there is no such recipe, or there are no such videos
                answer = Answer(error=str(error))
            if answer == Answer():
                say("stopped; the same command goes on from there")
                return None
            results.add(variant.key, seed, answer)
            say(f"error: {answer.error}" if answer.error else _summary(answer.values or {}))
        return results


def _case(ablation: Ablation, variant: Variant, seed: int | None, cost: dict[str, Any] | None) -> Case:
    """What is to be computed: the cost of a variant (no seed), or a training within the budget that its cost allows."""
    steps = None
    if seed is not None and cost is not None and ablation.minutes is not None:
        steps_per_second = cost["train_clips_per_second"] / ablation.recipe.batch_size
        steps = max(1, round(60 * ablation.minutes * steps_per_second))
    recipe = ablation.recipe_of(variant, ablation.first_seed if seed is None else seed, steps)
    run = None if seed is None else str(ablation.output / "runs" / f"{variant.key}-seed-{seed}")
    # The videos are square: three crops would be one and the same.
    views = dataclasses.replace(ablation.views, crops=1) if ablation.makes_videos else ablation.views
    return Case(recipe, run, views)


def _check_videos(ablation: Ablation) -> None:
    """Finds mistakes about the videos, which concern all variants, before the first case."""
    if ablation.makes_videos:
        ablation.videos(None, ablation.first_seed)
    open_data(ablation.recipe.data)


def _summary(values: dict[str, Any]) -> str:
    """A line about the values of a case."""
    if "top1" in values:
        return f"{values['top1']:.1%} of {values['videos']} videos right after {values['steps']} steps"
    return f"{values['parameters']:,} parameters, {values['train_clips_per_second']:.3g} clips a second in training"


def _claim(ablation: Ablation) -> None:
    """Writes the settings to a new directory; checks that an old one has the same."""
    path, wanted = ablation.output / "settings.json", ablation.settings()
    if not path.exists():
        others = [child for child in ablation.output.iterdir() if child.name != ".lock"]
        if others:
            raise ConfigError(f"{ablation.output} holds other things than an ablation; choose another directory.")
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=2) + "\n")
        return
    ours, theirs = dict(flat(wanted)), dict(flat(read_json(path, ConfigError)))
    # The mesh, too, leaves results as they are, but not costs.
    free = tuple(f"recipe.{name}" for name in FREE_TO_CHANGE if name != "mesh.")
    different = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name) and not name.startswith(free)
    )
    if different:
        name = different[0]
        raise ConfigError(
            f"{ablation.output} holds an ablation with other settings: {name} is {json.dumps(ours.get(name))} here and "
            f"{json.dumps(theirs.get(name))} there; give the same settings, or another directory."
        )
