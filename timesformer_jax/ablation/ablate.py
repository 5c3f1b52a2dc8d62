"""Ablations: variants of a recipe, each trained with the same budget from the same seeds, and what each costs.

ablate(RECIPES["motion"], Path("out"), variants_of(["schemes"], RECIPES["motion"].model), seeds=(0, 1, 2))

settings.json     what is compared with what
results.jsonl     a line for the cost of each variant, and one for each (variant, seed); never computed twice
videos/           where the recipe names none: those of training/motion.py, a set for each seed
runs/             of the training (run_directory.py), each with its exported model
report.md, ...    see ablation_report.py
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.motion import SAMPLING_RATE, MotionTask, ensure_motion
from ..data.sources import read_videos
from ..errors import ConfigError, DataError, TimesformerError
from ..evaluation.evaluate import Views
from ..support.files import read_json, read_lines, write_atomically
from ..support.progress import say
from ..training.recipe import TrainConfig
from ..training.run_directory import FREE_TO_CHANGE, RunDirectory, flat
from ..training.stopping import StopRequest
from .case import Answer, Case
from .process import Runner, in_own_process
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
        recipe: that the variants change; its seed is of no account.
        output: the directory.
        variants: the rows of the tables.
        seeds: of videos, weights and order; the same for all variants. With none the costs alone are measured.
        minutes: of taking steps, as many for each variant as its measured speed allows; the recipe's steps when None.
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
            raise DataError("there are no training videos; give --data.train (only the preset motion makes its own).")
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
        """Of the videos that costs are measured with."""
        return self.seeds[0] if self.seeds else 0

    def recipe_of(self, variant: Variant, seed: int, steps: int | None) -> TrainConfig:
        """The recipe of one training, its videos made."""
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
        """The videos that a variant, or the recipe as it is, is trained on; made if needed."""
        frames = self.motion.task.frames
        if variant is not None and self.recipe.model.num_frames is not None:
            frames = frames * variant.changes.get("num_frames", self.recipe.model.num_frames)
            frames = round(frames / self.recipe.model.num_frames)
        task = dataclasses.replace(self.motion.task, frames=frames)
        directory = self.output / "videos" / f"seed-{seed}-frames-{frames}"
        ensure_motion(directory, task, train=self.motion.train, test=self.motion.test, seed=seed)
        return directory


class Results:
    """What is known: the values of (key of a variant, seed), or why there are none. The seed of a cost is None."""

    def __init__(self, path: Path) -> None:
        """Takes up what earlier processes have found."""
        self._path = path
        self._found: dict[tuple[str, int | None], Answer] = {}
        lines = read_lines(path)
        for line in lines:
            self._found[line["variant"], line["seed"]] = Answer(line.get("values"), line.get("error"))
        with write_atomically(path) as temporary:  # without a last line that a killed process left unfinished
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def add(self, variant: str, seed: int | None, answer: Answer) -> None:
        """Notes an answer; it takes the place of an earlier one."""
        self._found[variant, seed] = answer
        found = {name: value for name, value in dataclasses.asdict(answer).items() if value is not None}
        with self._path.open("a") as file:
            file.write(json.dumps({"variant": variant, "seed": seed, **found}) + "\n")

    def values(self, variant: str, seed: int | None) -> dict[str, Any] | None:
        """What was found; None where nothing was, or an error."""
        return self._found.get((variant, seed), Answer()).values

    def error(self, variant: str, seeds: Sequence[int]) -> str | None:
        """Why a value is missing."""
        errors = [self._found.get((variant, seed), Answer()).error for seed in (None, *seeds)]
        return next(filter(None, errors), None)


def ablate(ablation: Ablation, *, stop: StopRequest | None = None, runner: Runner | None = None) -> Results | None:
    """Measures and trains what has not been before. A variant that fails is noted and stops no other.

    Args:
        ablation: what is compared with what.
        stop: asks to save and return; for callers that listen to signals.
        runner: does a case; `in_own_process` when None.

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
        _look_for_videos(ablation)
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
            say(f"error: {answer.error}" if answer.error else _told(answer.values or {}))
        return results


def _case(ablation: Ablation, variant: Variant, seed: int | None, cost: dict[str, Any] | None) -> Case:
    steps = None
    if seed is not None and cost is not None and ablation.minutes is not None:
        steps_per_second = cost["train_clips_per_second"] / ablation.recipe.batch_size
        steps = max(1, round(60 * ablation.minutes * steps_per_second))
    recipe = ablation.recipe_of(variant, ablation.first_seed if seed is None else seed, steps)
    run = None if seed is None else str(ablation.output / "runs" / f"{variant.key}-seed-{seed}")
    # Of square videos and square crops, three crops are one and the same.
    views = dataclasses.replace(ablation.views, crops=1) if ablation.makes_videos else ablation.views
    return Case(recipe, run, views)


def _look_for_videos(ablation: Ablation) -> None:
    """Finds a mistake about the videos that is no fault of any variant before there are any."""
    data = ablation.recipe.data
    if ablation.makes_videos:
        ablation.videos(None, ablation.first_seed)
    for source in filter(None, (data.train, data.validation)):
        read_videos(source, root=data.root, classes=data.classes)


def _told(values: dict[str, Any]) -> str:
    if "top1" in values:
        return f"{values['top1']:.1%} of {values['videos']} videos right after {values['steps']} steps"
    return f"{values['parameters']:,} parameters, {values['train_clips_per_second']:.3g} clips a second in training"


def _claim(ablation: Ablation) -> None:
    """Writes down what is compared in a new directory; checks that it is that of an old one."""
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
