"""The paper's central finding at small scale: what each kind of attention makes of videos whose class is a motion.

    python benchmarks/motion.py --output out/motion

Trains the recipe of the demo (docs/motion.md) with each scheme and each seed, on the same videos for all schemes of a
seed and for the same number of steps, and prints a table in Markdown. Run again, it goes on where it was stopped.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import get_args

import numpy as np
import tyro

from timesformer_jax.config import AttentionType
from timesformer_jax.demo import TEST_VIDEOS, TRAIN_VIDEOS, motion_recipe
from timesformer_jax.training.data import DataConfig
from timesformer_jax.training.evaluation_run import Views, evaluate
from timesformer_jax.training.loop import train
from timesformer_jax.training.motion import within_pairs, write_motion


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        output: directory for videos, runs and results.
        seeds: of videos, weights and order.
        steps: of training; the demo's when not given.
        train_videos: videos to train on.
        test_videos: videos to evaluate on.
        schemes: of attention.
    """

    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | None = None
    train_videos: int = TRAIN_VIDEOS
    test_videos: int = TEST_VIDEOS
    schemes: tuple[AttentionType, ...] = get_args(AttentionType)


def measure(settings: Settings, scheme: AttentionType, seed: int) -> dict[str, float]:
    """Accuracy of one training, over all classes and within the pairs."""
    videos = settings.output / f"videos-{seed}"
    if not videos.exists():
        write_motion(videos, train=settings.train_videos, test=settings.test_videos, seed=seed)
    run = settings.output / f"{scheme}-{seed}"
    recipe = motion_recipe(videos, attention_type=scheme, steps=settings.steps, seed=seed)
    trained = train(recipe, run)
    if trained.export is None:
        raise SystemExit("stopped; the same command goes on")
    result = evaluate(
        trained.export, DataConfig(validation=str(videos / "test"), workers=0), views=Views(crops=1), batch_size=48
    )
    values = {"accuracy": result.top1, "within_pairs": within_pairs(result.classes, result.confusion)}
    print(json.dumps({"scheme": scheme, "seed": seed, "steps": trained.step} | values), flush=True)
    return values


def main(settings: Settings) -> None:
    """Prints the table when all are done."""
    # Seed by seed, so that there is something to compare early.
    cases = itertools.product(settings.seeds, settings.schemes)
    results = {(scheme, seed): measure(settings, scheme, seed) for seed, scheme in cases}
    print("\n| attention | " + " | ".join(f"seed {seed}" for seed in settings.seeds) + " | accuracy | within pairs |")
    print("| --- |" + " --- |" * (len(settings.seeds) + 2))
    for scheme in settings.schemes:
        rows = [results[scheme, seed] for seed in settings.seeds]
        singles = " | ".join(f"{row['accuracy']:.1%}" for row in rows)
        spread = " | ".join(
            f"{np.mean(values):.1%} ± {np.std(values):.1%}"
            for values in ([row[name] for row in rows] for name in ("accuracy", "within_pairs"))
        )
        print(f"| {scheme.replace('_', ' ')} | {singles} | {spread} |")


if __name__ == "__main__":
    main(tyro.cli(Settings))
