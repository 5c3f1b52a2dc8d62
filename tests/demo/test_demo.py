"""The demo from videos to report, and the checkpoint that it came to: `motion-tiny`, which ships with the package."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from timesformer_jax import TimesformerForVideoClassification, VideoClassifier
from timesformer_jax.checkpoints.source import SHIPPED, locate
from timesformer_jax.cli import main
from timesformer_jax.config import AttentionType
from timesformer_jax.data.motion import OPPOSITE, MotionTask, motion_clip, write_keyframes
from timesformer_jax.demo.run import DemoResult, motion_recipe, run_demo
from timesformer_jax.errors import CheckpointError, DataError
from timesformer_jax.training.initial_model import start_from_recipe
from timesformer_jax.training.run_directory import RunError

STEPS = 3


def small_demo(directory: Path, **options: int) -> DemoResult | None:
    return run_demo(directory, **({"steps": STEPS, "train_videos": 16, "test_videos": 16} | options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult]:
    directory = tmp_path_factory.mktemp("demo") / "new"
    result = small_demo(directory)
    assert result is not None
    return directory, result


def test_it_makes_trains_evaluates_and_reports(demo: tuple[Path, DemoResult]) -> None:
    directory, result = demo
    assert len(list((directory / "videos" / "train").glob("*/*.mp4"))) == 16
    assert result.evaluation.videos == 16
    assert set(result.evaluation.classes) == set(OPPOSITE) - {"clockwise", "counterclockwise", "growing", "shrinking"}
    lines = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert result.video.parent.parent == directory / "videos" / "test"
    again = VideoClassifier.from_pretrained(result.checkpoint)(result.video, top_k=8)
    assert [p.label for p in again] == [p.label for p in result.predictions]
    assert sum(p.score for p in result.predictions) == pytest.approx(1)
    page = result.report.read_text()
    assert page.count("data:image/png;base64,") == 4
    assert f"{result.evaluation.top1:.1%}" in page
    assert "://" not in page
    assert result.picture.read_bytes().startswith(b"\x89PNG")


def test_the_same_command_goes_on_and_another_is_refused(demo: tuple[Path, DemoResult], tmp_path: Path) -> None:
    directory, result = demo
    weights = result.checkpoint / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = small_demo(directory)
    assert again is not None
    assert weights.stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.evaluation.confusion, result.evaluation.confusion)
    with pytest.raises(DataError, match="another task, number or seed"):
        small_demo(directory, seed=1)
    with pytest.raises(RunError, match="steps"):
        small_demo(directory, steps=STEPS + 1)


def test_the_recipe_is_that_of_the_shipped_model() -> None:
    recipe = motion_recipe(Path("videos"))
    config = locate("motion-tiny").config()
    assert config.sampling_rate == recipe.model.sampling_rate
    for name in ("hidden_size", "num_hidden_layers", "image_size", "patch_size", "num_frames", "attention_type"):
        assert getattr(config, name) == getattr(recipe.model, name)
    assert recipe.data.augmentation.flip == 0  # a mirrored clip is of another class


def test_it_starts_with_a_sense_of_time() -> None:
    recipe = dataclasses.replace(motion_recipe(Path("videos")).model, num_hidden_layers=1)
    clip = np.random.default_rng(0).normal(size=(1, 8, 32, 32, 3)).astype(np.float32)
    both = np.concatenate([clip, clip[:, ::-1]])
    for deviation, equal in ((recipe.time_initializer_range, False), (0.0, True)):
        options = dataclasses.replace(recipe, time_initializer_range=deviation)
        start = start_from_recipe(options, [str(i) for i in range(8)], 0)
        logits = jax.jit(start.model.apply)({"params": start.params}, both).logits
        assert np.allclose(logits[0], logits[1], atol=1e-4) == equal


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Videos of a seed that nothing was trained on."""
    directory = tmp_path_factory.mktemp("videos")
    videos = []
    for number in range(64):
        frames, name = motion_clip(MotionTask(), seed=1234, split="test", number=number)
        videos.append((directory / f"{number}.mp4", name))
        write_keyframes(videos[-1][0], frames)
    return videos


def test_motion_tiny_tells_motions_from_their_reverse(held_out: list[tuple[Path, str]]) -> None:
    assert sum(file.stat().st_size for file in (SHIPPED / "motion-tiny").iterdir()) < 2_000_000
    classify = VideoClassifier.from_pretrained("motion-tiny", batch_size=32)
    answers = classify([video for video, _ in held_out], top_k=1)
    right = [answer[0].label == name for answer, (_, name) in zip(answers, held_out, strict=True)]
    assert np.mean(right) > 0.9  # all of the 480 test videos of its training were right
    model, params = TimesformerForVideoClassification.from_pretrained("motion-tiny")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert model.config.num_labels == 8


def test_classify_with_motion_tiny(held_out: list[tuple[Path, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(held_out[0][0]), "--model", "motion-tiny", "--json", "--top-k", "8"]) == 0
    predictions = json.loads(capsys.readouterr().out)["predictions"]
    assert {prediction["label"] for prediction in predictions} <= set(OPPOSITE)


def test_a_directory_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("motion-tiny").directory == SHIPPED / "motion-tiny"
    shutil.copytree(SHIPPED / "motion-tiny", tmp_path / "motion-tiny")
    assert locate("motion-tiny").directory.resolve() == tmp_path / "motion-tiny"
    (tmp_path / "motion-tiny" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        locate("motion-tiny")


@pytest.mark.long
@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only"])
def test_the_whole_demo(attention_type: AttentionType, tmp_path: Path) -> None:
    result = run_demo(tmp_path / "demo", attention_type=attention_type)
    assert result is not None
    if attention_type == "space_only":
        # A video and its reverse are one and the same to it; only rounding may part them.
        assert 0.45 <= result.within_pairs <= 0.55
        assert result.evaluation.top1 <= 0.55
    else:
        assert result.evaluation.top1 >= 0.93
