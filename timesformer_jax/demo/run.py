"""The demo: makes videos, trains a TimeSformer on them, evaluates it and explains one video, in two minutes.

run_demo(Path("timesformer-demo"))       # what `timesformer demo` does; see docs/motion.md

    videos/        train/CLASS/*.mp4 and test/CLASS/*.mp4 (data/motion.py)
    run/           the training run: metrics, checkpoints, and export/, which Transformers loads
    evaluation/    accuracies, predictions and confusion matrix of the test videos
    example.png    a test video, what the model says of it and what it attends to
    report.html    all of it on one page
"""

import dataclasses
from pathlib import Path

import jax

from ..config import AttentionType
from ..data.config import DataConfig, Views
from ..data.motion import MotionTask, ensure_motion, within_pairs
from ..evaluation.evaluate import evaluate
from ..evaluation.metrics import Evaluation
from ..inference.classifier import VideoClassifier
from ..inference.predictions import Prediction
from ..interpret.figures import save_figure
from ..interpret.video_encoder import VideoEncoder
from ..support.files import read_lines
from ..support.progress import say, show_progress
from ..training.loop import train
from ..training.recipe import RECIPES, TrainConfig
from ..training.run_directory import RunDirectory
from .pictures import example_figure, learning_curves, videos_figure
from .report import png_of, write_page

TRAIN_VIDEOS, TEST_VIDEOS = 2400, 480

_EVALUATION_BATCH = 48
_EXAMPLE = "up-right"
"""The class whose first test video is explained."""


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """The result of a demo.

    Attributes:
        evaluation: of the test videos.
        within_pairs: of the videos that were given one class of their pair, the share that was given the right one.
        video: the test video that was explained.
        predictions: what the model says of it, best first.
        picture: of that video.
        report: the page.
        checkpoint: the trained model, which Transformers loads.
    """

    evaluation: Evaluation
    within_pairs: float
    video: Path
    predictions: list[Prediction]
    picture: Path
    report: Path
    checkpoint: Path


def motion_recipe(
    videos: Path,
    *,
    attention_type: AttentionType = "divided_space_time",
    steps: int | None = None,
    seed: int = 0,
) -> TrainConfig:
    """The recipe "motion" for a directory that `write_motion` made.

    Args:
        videos: the directory.
        attention_type: scheme of attention.
        steps: of training; the recipe's when None.
        seed: of the weights and of the order of the videos.
    """
    recipe = RECIPES["motion"]
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, train=str(videos / "train")),
        model=dataclasses.replace(recipe.model, attention_type=attention_type),
        steps=steps or recipe.steps,
        seed=seed,
    )


def run_demo(
    directory: Path,
    *,
    attention_type: AttentionType = "divided_space_time",
    steps: int | None = None,
    max_seconds: float | None = None,
    train_videos: int = TRAIN_VIDEOS,
    test_videos: int = TEST_VIDEOS,
    seed: int = 0,
) -> DemoResult | None:
    """Makes videos, trains on them, evaluates, and writes a report. It goes on where an earlier call was stopped.

    Args:
        directory: where to; made if needed.
        attention_type: scheme of attention.
        steps: of training; the recipe's when None.
        max_seconds: of training; it then stops, and the next call goes on.
        train_videos: videos to train on.
        test_videos: videos to evaluate on.
        seed: of everything random.

    Returns:
        The result; None when training was asked to stop before its last step.

    Raises:
        DataError: the directory holds other videos.
        RunError: the directory holds a run with other settings.
    """
    videos = directory / "videos"
    ensure_motion(videos, MotionTask(), train=train_videos, test=test_videos, seed=seed)
    trained = train(
        motion_recipe(videos, attention_type=attention_type, steps=steps, seed=seed),
        directory / "run",
        max_seconds=max_seconds,
    )
    if trained.export is None:
        return None
    say(f"evaluating on {test_videos} videos that were not trained on")
    # The videos are square: three crops would be one and the same.
    evaluation = evaluate(
        trained.export,
        DataConfig(validation=str(videos / "test"), workers=0),
        views=Views(crops=1),
        batch_size=_EVALUATION_BATCH,
        output=directory / "evaluation",
    )
    with show_progress("explaining a video and writing the report"):
        return _report(directory, evaluation, trained.export)


def _report(directory: Path, evaluation: Evaluation, checkpoint: Path) -> DemoResult:
    classify, encoder = VideoClassifier.from_pretrained(checkpoint), VideoEncoder.from_pretrained(checkpoint)
    config = encoder.model.config
    folders = sorted((directory / "videos" / "test").iterdir())
    videos = [min(folder.iterdir()) for folder in folders]
    clips = [classify.read(video) for video in videos]
    answers = [classify(video, top_k=config.num_labels) for video in videos]
    labels = [video.parent.name for video in videos]
    example = labels.index(_EXAMPLE)

    picture = directory / "example.png"
    explained = example_figure(encoder, clips[example], labels[example], answers[example])
    save_figure(explained, picture)
    pairs = within_pairs(evaluation.classes, evaluation.confusion)
    run = RunDirectory(directory / "run")
    metrics = [line for line in read_lines(run.metrics) if "loss" in line]
    curves = learning_curves(
        [line["step"] for line in metrics],
        [line["loss"] for line in metrics],
        [line["accuracy"] for line in metrics],
        config.num_labels,
    )
    report = directory / "report.html"
    write_page(
        report,
        title="TimeSformer on videos whose class lies in the motion",
        introduction=(
            f"A shape moves in one of {config.num_labels} directions. Played backwards, a video of one class is one of "
            "the opposite class, so that neither a frame nor a set of frames without their order tells which: a model "
            "without a sense of time is right in half of them at best."
        ),
        figures={
            "of the test videos right": f"{evaluation.top1:.1%}",
            "right within the pairs of opposites": f"{pairs:.1%}",
            "test videos": f"{evaluation.videos:,}",
            "steps of training": f"{metrics[-1]['step']:,}",
            "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(encoder.params)):,}",
            "attention": config.attention_type.replace("_", " "),
        },
        sections=[
            ("One test video", "", png_of(explained)),
            (
                "Training",
                "Which pair a video belongs to shows in single frames and is soon learned; which of the two it is "
                "takes the order of the frames.",
                png_of(curves),
            ),
            ("What is taken for what", "", (directory / "evaluation" / "confusion.png").read_bytes()),
            ("A test video of each class", "", png_of(videos_figure(clips, labels, [a[0].label for a in answers]))),
        ],
        command=f"timesformer classify {videos[example]} --model {checkpoint}",
    )
    return DemoResult(evaluation, pairs, videos[example], answers[example], picture, report, checkpoint)
