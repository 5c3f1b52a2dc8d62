"""VideoClassifier: the labels and numbers that Transformers gives for the same file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch import torch, transformers
from reference import ATTENTION_TYPES, run_reference, tiny_reference
from videos import moving_pictures, write_video

from timesformer_jax import (
    TimesformerForVideoClassification,
    VideoClassifier,
    VideoProcessor,
    read_clip,
)
from timesformer_jax.checkpoints.open import load_checkpoint, processor_for
from timesformer_jax.errors import CheckpointError, VideoError

PROCESSOR = {
    "image_processor_type": "VideoMAEImageProcessor",
    "size": {"shortest_edge": 14},
    "crop_size": {"height": 12, "width": 12},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.25],
}
NAMES = {i: f"class {i}" for i in range(7)}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, moving_pictures(60))
    return path


def save_reference(directory: Path, **config: Any) -> Any:
    model = tiny_reference(dtype=torch.float32, id2label=NAMES, label2id={v: k for k, v in NAMES.items()}, **config)
    model.save_pretrained(directory)
    transformers.VideoMAEImageProcessor.from_dict(PROCESSOR).save_pretrained(directory)
    return model


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_a_video_file_gets_the_logits_of_transformers(attention_type: str, video: Path, tmp_path: Path) -> None:
    reference = save_reference(tmp_path, attention_type=attention_type)
    classify = VideoClassifier.from_pretrained(tmp_path)
    frames = read_clip(video, 5)
    processor = transformers.VideoMAEImageProcessor.from_pretrained(tmp_path)
    pixel_values = np.stack(processor(list(frames))["pixel_values"][0])[None].transpose(0, 1, 3, 4, 2)
    with torch.no_grad():
        expected = run_reference(reference, pixel_values).logits
    assert expected is not None
    logits = classify.logits(video)
    # float32 rounding over two layers: a few units in the last place (6e-8) of the largest value.
    np.testing.assert_allclose(logits, expected.numpy(), atol=5e-6 * float(expected.abs().max()))

    predictions = classify(video, top_k=3)
    best = expected[0].topk(3)
    assert [p.index for p in predictions] == best.indices.tolist()
    assert [p.label for p in predictions] == [f"class {i}" for i in best.indices.tolist()]
    scores = expected[0].softmax(-1)[best.indices]
    np.testing.assert_allclose([p.score for p in predictions], scores.numpy(), rtol=2e-5)


def test_several_videos_are_several_answers(video: Path, tmp_path: Path) -> None:
    save_reference(tmp_path)
    classify = VideoClassifier.from_pretrained(tmp_path)
    other = moving_pictures(30, seed=1)
    both = classify([video, other])
    for answer, alone in zip(both, [classify(video), classify(other)], strict=True):
        assert [p.label for p in answer] == [p.label for p in alone]
        # A batch of two may round otherwise than one clip: units in the last place of float32.
        assert [p.logit for p in answer] == pytest.approx([p.logit for p in alone], rel=1e-5)
    assert len(classify(video, top_k=50)) == 7


def test_the_sampling_is_the_checkpoints(video: Path, tmp_path: Path) -> None:
    save_reference(tmp_path)
    classify = VideoClassifier.from_pretrained(tmp_path)
    np.testing.assert_array_equal(classify.read(video), read_clip(video, 5))
    assert "not known" in classify.sampling
    classify = VideoClassifier.from_pretrained(tmp_path, sampling_rate=4.0)
    np.testing.assert_array_equal(classify.read(video), read_clip(video, 5, sampling_rate=4))
    assert "middle 5 x 4" in classify.sampling
    classify = VideoClassifier.from_pretrained(tmp_path, sampling_rate="segments")
    np.testing.assert_array_equal(classify.read(video), read_clip(video, 5))
    assert "each equal part" in classify.sampling


@pytest.mark.parametrize(
    ("problem_type", "scores"),
    [("multi_label_classification", lambda x: 1 / (1 + np.exp(-x))), ("regression", lambda x: x)],
)
def test_scores_follow_the_problem_type(problem_type: str, scores: Any, video: Path, tmp_path: Path) -> None:
    save_reference(tmp_path, problem_type=problem_type)
    for p in VideoClassifier.from_pretrained(tmp_path)(video):
        assert p.score == pytest.approx(scores(np.float64(p.logit)), rel=1e-5)  # float32's own rounding


def test_preprocessing_of_the_published_models_where_a_checkpoint_has_none(tmp_path: Path) -> None:
    tiny_reference(dtype=torch.float32).save_pretrained(tmp_path)
    expected = VideoProcessor(size=12, crop_size=(12, 12))
    assert processor_for(load_checkpoint(tmp_path)) == expected
    assert VideoClassifier.from_pretrained(tmp_path).processor == expected


def test_a_given_processor_wins(tmp_path: Path) -> None:
    save_reference(tmp_path)
    processor = VideoProcessor(size=12, crop_size=(12, 12), image_mean=0.1)
    assert VideoClassifier.from_pretrained(tmp_path, processor=processor).processor == processor


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    save_reference(tmp_path / "model")
    classify = VideoClassifier.from_pretrained(tmp_path / "model")
    with pytest.raises(VideoError, match=r"missing\.mp4"):
        classify(tmp_path / "missing.mp4")
    with pytest.raises(CheckpointError, match="nowhere"):
        VideoClassifier.from_pretrained(tmp_path / "nowhere")


def test_equal_models_compile_once(video: Path, tmp_path: Path, compilations: Callable[[], list[str]]) -> None:
    save_reference(tmp_path)
    first = VideoClassifier.from_pretrained(tmp_path)
    first(video)
    compilations()
    VideoClassifier.from_pretrained(tmp_path)(video)
    assert "compute_logits" not in compilations()


def test_bfloat16_classifies_alike(video: Path, tmp_path: Path) -> None:
    save_reference(tmp_path)
    exact = VideoClassifier.from_pretrained(tmp_path).logits(video)
    rounded = VideoClassifier.from_pretrained(tmp_path, dtype="bfloat16")
    assert isinstance(rounded.model, TimesformerForVideoClassification)
    difference = np.abs(rounded.logits(video) - exact).max()
    # Coarse on purpose (bfloat16 keeps 8 bits); test_modeling.py measures the bound.
    assert 0 < difference < 0.05 * np.abs(exact).max()
