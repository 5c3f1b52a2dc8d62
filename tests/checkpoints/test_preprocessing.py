"""One size of frames for model and preprocessing; a preprocessing of one's own; what a trained model is scored for."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import make_videos, recipe
from tiny_flax import tiny_flax
from videos import moving_pictures, write_video

from timesformer_jax import VideoClassifier, VideoProcessor
from timesformer_jax.checkpoints.open import open_checkpoint, processor_for
from timesformer_jax.cli import main, parse_command
from timesformer_jax.config import TimesformerConfig
from timesformer_jax.conversion import convert_flax_to_hf
from timesformer_jax.data.config import Augmentation, DataConfig, Views
from timesformer_jax.data.on_device import normalize
from timesformer_jax.errors import ConfigError
from timesformer_jax.evaluation.evaluate import evaluate
from timesformer_jax.inference.export import export_settings
from timesformer_jax.inference.predictions import scores_of
from timesformer_jax.interpret.video_encoder import VideoEncoder
from timesformer_jax.training.initial_model import save_start, start_from_directory, start_from_recipe
from timesformer_jax.training.loop import train
from timesformer_jax.training.recipe import ModelOptions
from timesformer_jax.training.run_directory import RunDirectory

OWN = VideoProcessor(size=16, crop_size=(12, 12), image_mean=0.3, resample=3)


def save(directory: Path, processor: VideoProcessor | None = OWN, **config: Any) -> Path:
    fields = {"image_size": 12, "sampling_rate": 2.0, **config}
    model, params = tiny_flax("divided_space_time", dtype=jnp.float32, **fields)
    model.save_converted(directory, params, processor=processor)
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoint") / "own")


def options(checkpoint: Path, **changes: Any) -> ModelOptions:
    return ModelOptions(checkpoint=str(checkpoint), **changes)


@pytest.mark.parametrize("size", [None, 12, 24, (8, 16), (24, 12)])
def test_one_size_everywhere(size: Any, checkpoint: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {} if size is None else {"image_size": size}
    shape = (12, 12) if size is None else size if isinstance(size, tuple) else (size, size)
    expected = VideoProcessor(size=round(16 * min(shape) / 12), crop_size=shape, image_mean=0.3, resample=3)
    opened = open_checkpoint(checkpoint, **given)
    assert processor_for(opened) == expected
    assert opened.config.image_shape == shape
    classify = VideoClassifier.from_pretrained(checkpoint, **given)
    assert classify.processor == expected
    assert export_settings(classify)["input"]["shape"] == ["batch", 3, *shape, 3]
    encoder = VideoEncoder.from_pretrained(checkpoint, **given)
    assert encoder.processor == expected
    assert VideoEncoder.from_pretrained(checkpoint, size=shape).processor == expected
    convert_flax_to_hf(checkpoint, tmp_path / "converted", **given)
    assert VideoProcessor.from_pretrained(tmp_path / "converted") == expected
    assert TimesformerConfig.from_json_file(tmp_path / "converted" / "config.json").image_shape == shape


@pytest.mark.parametrize("size", [None, 24])
def test_training_has_that_size(size: int | None, checkpoint: Path, tmp_path: Path) -> None:
    start = start_from_recipe(options(checkpoint, image_size=size), ["a", "b"], seed=0)
    side = size or 12
    assert (start.clip.height, start.clip.width) == (side, side) == start.processor.output_size
    assert start.processor.size == side * 16 // 12
    save_start(RunDirectory(tmp_path), start)
    assert start_from_directory(RunDirectory(tmp_path), options(checkpoint)) == start.__class__(
        start.model, start.processor, None
    )


def test_frames_of_the_preprocessing_where_config_and_preprocessing_disagree(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = save(tmp_path / "a", OWN.with_output_size(24, 24))
    assert "frames of 24 x 24 pixels, the model's image_size is 12 x 12" in caplog.text
    caplog.clear()
    classify = VideoClassifier.from_pretrained(checkpoint)  # as Transformers does
    assert "frames of 24 x 24 pixels, and its config.json says image_size 12 x 12" in caplog.text
    assert classify.processor.output_size == (24, 24)
    start = start_from_recipe(options(checkpoint), ["a", "b"], seed=0)
    assert start.model.config.image_shape == start.processor.output_size == (24, 24)
    assert (start.clip.height, start.clip.width) == (24, 24)
    caplog.clear()
    assert VideoClassifier.from_pretrained(checkpoint, image_size=12).processor == OWN
    assert "preprocessing" not in caplog.text


@pytest.mark.parametrize(
    "own",
    [
        VideoProcessor(size=14, do_center_crop=False),
        VideoProcessor(do_resize=False, do_center_crop=False),
        VideoProcessor(size=(12, 12), do_center_crop=False),
    ],
)
def test_preprocessing_without_a_crop(own: VideoProcessor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save(tmp_path / "a", own)
    assert VideoClassifier.from_pretrained(checkpoint).processor == own
    assert VideoClassifier.from_pretrained(checkpoint, image_size=24).processor.output_size == (24, 24)
    start = start_from_recipe(options(checkpoint), ["a", "b"], seed=0)
    assert start.processor.output_size == (12, 12) == start.model.config.image_shape
    assert ("cropped to 12 x 12 pixels" in capsys.readouterr().err) == (own.output_size is None)


def test_a_size_that_patches_do_not_divide(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="patches of height 4 do not divide the image_size's height 15"):
        VideoClassifier.from_pretrained(checkpoint, image_size=15)
    assert main(["classify", "no.mp4", "--model", str(checkpoint), "--config.image-size", "15"]) == 2
    assert "image_size" in capsys.readouterr().err


def test_a_run_that_an_earlier_version_began_keeps_its_size(checkpoint: Path, tmp_path: Path) -> None:
    start = start_from_recipe(options(checkpoint, image_size=24), ["a", "b"], seed=0)
    run = RunDirectory(tmp_path)
    save_start(run, start)
    OWN.save_pretrained(run.model)  # as it was before: of the checkpoint's own size
    earlier = start_from_directory(run, options(checkpoint))
    assert earlier is not None
    assert earlier.processor.output_size == (24, 24)


def of_command(*arguments: str) -> VideoProcessor:
    """The preprocessing that a command gets."""
    command = parse_command(arguments)
    source = getattr(command, "model", None) or command.checkpoint
    return processor_for(open_checkpoint(source, **command.loading.options()))


@pytest.mark.parametrize("command", ["classify a.mp4 --model", "features a.mp4 --out a.npz --model", "app --model"])
@pytest.mark.parametrize(("size", "shape"), [("24", (24, 24)), ("8 16", (8, 16))])
def test_the_commands_take_sizes(command: str, size: str, shape: tuple[int, int], checkpoint: Path) -> None:
    processor = of_command(*command.split(), str(checkpoint), "--config.image-size", *size.split())
    assert processor == OWN.with_output_size(*shape)


# A preprocessing of one's own


def test_a_given_preprocessing_decides(checkpoint: Path, tmp_path: Path) -> None:
    other = VideoProcessor(size=12, crop_size=12, image_mean=0.7)
    other.save_pretrained(tmp_path)
    for given in (other, tmp_path, tmp_path / "preprocessor_config.json", str(tmp_path)):
        assert VideoClassifier.from_pretrained(checkpoint, processor=given).processor == other
        assert VideoEncoder.from_pretrained(checkpoint, processor=given).processor == other
    convert_flax_to_hf(checkpoint, tmp_path / "converted", processor=tmp_path)
    assert VideoProcessor.from_pretrained(tmp_path / "converted") == other
    start = start_from_recipe(options(checkpoint, processor=str(tmp_path)), ["a", "b"], seed=0)
    assert start.processor == other
    resized = VideoClassifier.from_pretrained(checkpoint, processor=tmp_path, image_size=24)
    assert resized.processor == other.with_output_size(24, 24)
    bgr = VideoClassifier.from_pretrained(checkpoint, processor=tmp_path, channel_order="bgr")
    assert bgr.processor.channel_order == "bgr"


@pytest.mark.parametrize("command", ["classify a.mp4 --model", "visualize a.mp4 --out a --model", "evaluate", "export"])
def test_the_commands_take_a_preprocessing(command: str, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "processor_config.json"
    values = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}}
    file.write_text(json.dumps({"image_processor": values}))
    further = ["out"] if command == "export" else []
    processor = of_command(*command.split(), str(checkpoint), *further, "--processor", str(file))
    assert processor.differences(VideoProcessor.from_dict(values)) == []


def test_a_preprocessing_that_is_none(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "processor_config.json").write_text("{}")
    command = ["export", str(checkpoint), str(tmp_path / "out"), "--processor"]
    assert main([*command, str(tmp_path / "processor_config.json")]) == 2
    assert "holds no settings of pixels" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "missing.json")]) == 2
    assert "There is no" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_nested_file_in_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "a", None)
    assert VideoClassifier.from_pretrained(checkpoint).processor == VideoProcessor(size=12, crop_size=12)
    (checkpoint / "processor_config.json").write_text(json.dumps({"image_processor": OWN.to_dict()}))
    assert VideoClassifier.from_pretrained(checkpoint).processor == OWN
    (checkpoint / "processor_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"processor_config\.json is not valid JSON"):
        VideoClassifier.from_pretrained(checkpoint)


def test_an_offset_is_folded_and_computed_on_the_device(checkpoint: Path) -> None:
    geometry: dict[str, Any] = {"size": 16, "crop_size": 12, "rescale_factor": 1 / 127.5}
    for processor, same in (
        ({"offset": True, "image_mean": (0.1, 0.2, 0.3)}, {"image_mean": (1.1, 1.2, 1.3)}),
        ({"offset": True, "do_normalize": False}, {"image_mean": 1.0, "image_std": 1.0}),
    ):
        folded, expected = (
            VideoClassifier.from_pretrained(checkpoint, processor=VideoProcessor(**geometry, **settings))
            for settings in (processor, same)
        )
        assert folded.forward.module == expected.forward.module
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            folded.forward.variables,
            expected.forward.variables,
        )
        frames = moving_pictures(3, 12, 12)
        values = folded.processor.rescale_and_normalize(frames)
        np.testing.assert_allclose(
            normalize(jnp.asarray(frames), folded.processor, jnp.float32), values, rtol=1e-5, atol=1e-6
        )


# What the model was trained for


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression", None])
def test_training_is_for_single_labels(problem_type: Any, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "a", problem_type=problem_type)
    start = start_from_recipe(options(checkpoint), ["a", "b", "c"], seed=0)
    assert start.model.config.problem_type == "single_label_classification"
    scores = scores_of(np.array([1.0, 2.0, 4.0], np.float32), start.model.config)
    assert scores.sum() == pytest.approx(1)
    run = RunDirectory(tmp_path / "run")
    save_start(run, start)
    earlier = start.model.config.replace(problem_type=problem_type)
    earlier.save_json_file(run.model / "config.json")  # as it was before
    resumed = start_from_directory(run, options(checkpoint))
    assert resumed is not None
    assert resumed.model.config.problem_type == "single_label_classification"


def test_scores_of_a_single_class() -> None:
    logits = np.array([3.0], np.float32)
    assert scores_of(logits, TimesformerConfig(num_labels=1)).tolist() == [3.0]  # a regression, as in Transformers
    single = TimesformerConfig(num_labels=1, problem_type="single_label_classification")
    assert scores_of(logits, single).tolist() == [1.0]
    several = TimesformerConfig(num_labels=1, problem_type="multi_label_classification")
    assert scores_of(logits, several)[0] == pytest.approx(1 / (1 + np.exp(-3)))


@pytest.mark.slow
def test_training_evaluation_classification_and_export_agree(tmp_path: Path) -> None:
    size = 16
    make_videos(tmp_path, classes=2, training=2, validation=2)
    start = save(tmp_path / "start", OWN, problem_type="multi_label_classification")
    model = ModelOptions(checkpoint=str(start), image_size=size, sampling_rate=2)
    config = recipe(tmp_path, model=model, steps=2, batch_size=2)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, augmentation=Augmentation()))
    result = train(config, tmp_path / "run")
    assert result.export is not None
    exported = VideoProcessor.from_pretrained(result.export)
    assert exported == OWN.with_output_size(size, size)
    stored = TimesformerConfig.from_json_file(result.export / "config.json")
    assert stored.image_shape == (size, size)
    assert stored.problem_type == "single_label_classification"
    for source in (result.export, tmp_path / "run"):
        classify = VideoClassifier.from_pretrained(source)
        assert classify.processor == exported
        video = write_video(tmp_path / "v.mp4", moving_pictures(12, 16, 20))
        assert sum(p.score for p in classify(video)) == pytest.approx(1)
        data = DataConfig(validation=str(tmp_path / "validation"), workers=0)
        evaluation = evaluate(source, data, views=Views(crops=1, position="middle"), batch_size=2)
        assert evaluation.videos == 4
