"""`timesformer demo`: goes from videos to a trained and evaluated model, in two minutes."""

import dataclasses
from pathlib import Path

import tyro

from ..config import AttentionType
from ..support.progress import say, show_progress
from .options import Command


@dataclasses.dataclass(frozen=True)
class Demo(Command):
    """Make videos, train a tiny TimeSformer on them, evaluate it and explain one video. Nothing is downloaded.

    It takes about two minutes on two cores. The same command goes on with a demo that was stopped.

    Attributes:
        directory: where everything goes.
        attention_type: scheme of attention; space_only can't tell a motion from its reverse, whatever it is taught.
        steps: of training; when not given as many as the shipped model motion-tiny was trained with.
        minutes: of training, at most; it stops then, and the same command goes on.
        seed: of the videos, the weights and the order of training.
    """

    directory: tyro.conf.Positional[Path] = Path("timesformer-demo")
    attention_type: AttentionType = "divided_space_time"
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0

    def run(self) -> int:
        """Runs the demo, and says where its files are."""
        with show_progress("starting"):
            from ..demo.run import run_demo

        result = run_demo(
            self.directory,
            attention_type=self.attention_type,
            steps=self.steps,
            max_seconds=None if self.minutes is None else 60 * self.minutes,
            seed=self.seed,
        )
        if result is None:
            return 0
        evaluation = result.evaluation
        best = result.predictions[0]
        say(f"right: {evaluation.top1:.1%} of {evaluation.videos} videos, {result.within_pairs:.1%} within their pairs")
        say(f"{result.video}: {best.label} ({best.score:.1%})")
        print(f"report      {result.report}")
        print(f"picture     {result.picture}")
        print(f"checkpoint  {result.checkpoint}")
        return 0
