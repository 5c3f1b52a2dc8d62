"""Batches: padded to few sizes, each compiled once, also ahead of the parameters; one bad video stops no other."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_flax import COLUMNS, FRAMES, ROWS, tiny_flax
from videos import moving_pictures, write_video

from timesformer_jax import VideoClassifier, VideoProcessor
from timesformer_jax.errors import TimesformerError, VideoError
from timesformer_jax.inference.batching import Forward, compile_ahead
from timesformer_jax.inference.folding import fold_for_inference, inference_module
from timesformer_jax.sharding import MeshConfig, make_mesh

PROCESSOR = VideoProcessor(size=8, crop_size=(4 * ROWS, 4 * COLUMNS))
SHAPE = (FRAMES, 4 * ROWS, 4 * COLUMNS, 3)


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, *SHAPE), np.uint8)


def test_any_number_of_clips_compiles_few_sizes(compilations: Callable[[], list[str]]) -> None:
    model, params = tiny_flax("space_only", dtype=jnp.float32, num_labels=5)
    forward = VideoClassifier.from_model(model, params, PROCESSOR, batch_size=4).forward
    clips = frames(11)
    alone = np.concatenate([forward(clips[i : i + 1]) for i in range(11)])
    for count in (2, 3, 4, 5, 11):
        np.testing.assert_allclose(forward(clips[:count]), alone[:count], rtol=1e-4, atol=1e-5)
    assert compilations().count("compute_logits") == 3  # batches of 1, 2 and 4


def test_a_mesh_of_one_device_changes_nothing() -> None:
    """Those of several are in test_sharding.py."""
    model, params = tiny_flax("space_only", dtype=jnp.float32, num_labels=6, num_hidden_layers=1)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    compile_ahead(inference_module(model, PROCESSOR), "int8", SHAPE, mesh).join()
    alone, spread = (
        VideoClassifier.from_model(model, params, PROCESSOR, weights="int8", batch_size=2, mesh=mesh).forward(frames(3))
        for mesh in (None, mesh)
    )
    np.testing.assert_allclose(spread, alone, rtol=1e-5, atol=1e-6)  # float32


def test_parameters_are_placed_on_a_mesh_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, params = tiny_flax("space_only", dtype=jnp.float32, num_hidden_layers=1)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    forward = VideoClassifier.from_model(model, params, PROCESSOR, mesh=mesh).forward
    placed: list[Any] = []
    device_put = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda value, *where: placed.append(value) or device_put(value, *where))
    for _ in range(3):
        forward(frames(1))
    assert [isinstance(value, dict) for value in placed] == [True, False, False, False]  # and the frames of each call


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_what_is_compiled_ahead_is_what_runs(weights: Any, compilations: Callable[[], list[str]]) -> None:

    def compiles_when_called(num_labels: int, *, ahead: bool) -> bool:
        model, params = tiny_flax("space_only", dtype=jnp.float32, num_labels=num_labels, num_hidden_layers=1)
        if ahead:
            compile_ahead(inference_module(model, PROCESSOR), weights, SHAPE).join()
        forward = VideoClassifier.from_model(model, params, PROCESSOR, weights=weights, batch_size=1).forward
        compilations()
        forward(frames(1))
        return "compute_logits" in compilations()

    assert compiles_when_called(11, ahead=False)
    assert not compiles_when_called(12, ahead=True)


def test_only_parameters_that_are_given_away_are_overwritten() -> None:
    model, params = tiny_flax("divided_space_time", dtype=jnp.float32)
    arrays = jax.tree.map(np.array, params)
    _, folded = fold_for_inference(model, arrays, PROCESSOR)
    jax.tree.map(np.testing.assert_array_equal, arrays, params)
    folded = jax.tree.map(np.array, folded)
    _, in_place = fold_for_inference(model, arrays, PROCESSOR, in_place=True)
    jax.tree.map(np.testing.assert_array_equal, in_place, folded)
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, arrays, params)


def test_parameters_may_come_later_or_fail() -> None:
    model, params = tiny_flax("space_only", dtype=jnp.float32, num_labels=5)
    module, folded = fold_for_inference(model, params, PROCESSOR)
    promise: Future = Future()
    forward = Forward(module, promise, batch_size=1)
    promise.set_result({"params": folded})
    assert forward(frames(1)).shape == (1, 5)
    failing: Future = Future()
    failing.set_exception(TimesformerError("damaged"))
    with pytest.raises(TimesformerError, match="damaged"):
        Forward(module, failing)(frames(1))


@pytest.fixture(scope="module")
def classify() -> VideoClassifier:
    model, params = tiny_flax("space_only", dtype=jnp.float32, num_labels=5, sampling_rate=4.0, num_hidden_layers=1)
    return VideoClassifier.from_model(model, params, PROCESSOR, batch_size=4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("videos")
    return [write_video(directory / f"{i}.mp4", moving_pictures(40, seed=i)) for i in range(5)]


def test_a_bad_video_stops_no_other(classify: VideoClassifier, videos: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    listed = [*videos[:2], bad, *videos[2:], bad]
    answers = list(classify.answers(listed, top_k=3))
    assert [answer.video for answer in answers] == listed
    assert [answer.error is not None for answer in answers] == [video == bad for video in listed]
    for answer in answers:
        if answer.error is None:
            alone = classify(answer.video, top_k=3)
            assert [p.label for p in answer.predictions] == [p.label for p in alone]
            assert [p.logit for p in answer.predictions] == pytest.approx([p.logit for p in alone], rel=1e-4)
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        classify(listed)


def test_videos_are_asked_for_as_they_are_needed(classify: VideoClassifier, videos: list[Path]) -> None:
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield videos[0]

    answers = classify.answers(endless())
    next(answers)
    assert asked <= 4 + 2 * 4  # a batch, and what is read ahead
    answers.close()  # type: ignore[attr-defined]


def test_several_clips_are_averaged(classify: VideoClassifier, videos: list[Path]) -> None:
    from timesformer_jax import read_clip

    clips = [read_clip(videos[0], FRAMES, sampling_rate=4, start=start) for start in (0, 14, 28)]
    rows = classify.forward(np.stack([classify.prepare(clip) for clip in clips]))
    np.testing.assert_allclose(classify.logits(videos[0], clips=3)[0], rows.mean(0), rtol=1e-5, atol=1e-5)
    with pytest.raises(VideoError, match="at least one"):
        classify.logits(videos[0], clips=0)
    model = classify.model.clone(config=classify.model.config.replace(sampling_rate=None))
    with pytest.raises(VideoError, match="sampling rate"):
        dataclasses.replace(classify, model=model).logits(videos[0], clips=2)


def test_videos_of_several_sizes(videos: list[Path]) -> None:
    """Without a crop the frames' size follows the video's: what is alike goes together."""
    model, params = tiny_flax("space_only", dtype=jnp.float32, num_labels=5)
    processor = VideoProcessor(do_resize=False, do_center_crop=False)
    classify = VideoClassifier.from_model(model, params, processor, batch_size=4)
    small, large = np.zeros((5, 8, 16, 3), np.uint8), np.full((5, 16, 16, 3), 200, np.uint8)
    listed = [small, large, large, small]
    expected = np.concatenate([classify.logits(video) for video in listed])
    np.testing.assert_allclose(classify.logits(listed), expected, rtol=1e-4, atol=1e-5)


def test_classify_imports_nothing_that_it_does_not_need(tmp_path: Path, videos: list[Path]) -> None:
    model, params = tiny_flax("space_only", dtype=jnp.float32, num_labels=5)
    model.save_pretrained(tmp_path, params, processor=PROCESSOR)
    heavy = "torch transformers optax grain orbax tensorstore matplotlib huggingface_hub tensorboardX array_record"
    code = (
        "import sys; from timesformer_jax.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {heavy.split()} if name in sys.modules], code, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "classify", str(videos[0]), "--model", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "[] 0"
