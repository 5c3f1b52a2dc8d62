"""Processor files of every kind: the pixels of Transformers 4.56.2 bit for bit, or one sentence."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch import transformers

from timesformer_jax.errors import ConfigError
from timesformer_jax.video.processing import VideoProcessor
from timesformer_jax.video.processor_files import find_processor_files

CLIP = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)
NESTED = "processor_config.json"


def write(file: Path, values: Any) -> Path:
    file.write_text(json.dumps(values))
    return file


def vit(**settings: Any) -> np.ndarray:
    """Pixel values of Transformers' ViTImageProcessor, (1, t, h, w, 3)."""
    values = transformers.ViTImageProcessor(**settings)(list(CLIP), return_tensors="np")["pixel_values"]
    return values.transpose(0, 2, 3, 1)[None]


def vivit(**settings: Any) -> np.ndarray:
    """Pixel values of Transformers' VivitImageProcessor, (1, t, h, w, 3)."""
    values = transformers.VivitImageProcessor(**settings)(list(CLIP), return_tensors="np")["pixel_values"]
    return values.transpose(0, 1, 3, 4, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": {"height": 12, "width": 20}},
        {"size": 16, "resample": 3},
        {"size": [20, 12], "do_normalize": False},
        {"do_resize": False, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        {"size": {"height": 8, "width": 8}, "rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0]},
        {"size": {"height": 8, "width": 8}, "do_rescale": False, "resample": 0},
        {"size": {"height": 9, "width": 8}, "do_convert_rgb": True},
    ],
)
@pytest.mark.parametrize(
    "named",
    [
        {"image_processor_type": "ViTImageProcessor"},
        {"feature_extractor_type": "ViTFeatureExtractor"},
        {"image_processor_type": "ViTImageProcessorFast", "do_center_crop": None, "crop_size": None},
    ],
)
def test_a_vit_processor(settings: dict[str, Any], named: dict[str, Any]) -> None:
    processor = VideoProcessor.from_dict(named | settings)
    expected = vit(**settings)
    np.testing.assert_array_equal(processor(CLIP), expected)
    assert processor.output_size == (expected.shape[2:4] if settings.get("do_resize", True) else None)
    # What is saved for Transformers and for the next reader has the same pixels.
    np.testing.assert_array_equal(VideoProcessor.from_dict(processor.to_dict())(CLIP), expected)


def test_transformers_own_vit_file(tmp_path: Path) -> None:
    settings = {"size": {"height": 18, "width": 12}, "resample": 3}
    transformers.ViTImageProcessor(**settings).save_pretrained(tmp_path)
    np.testing.assert_array_equal(VideoProcessor.from_pretrained(tmp_path)(CLIP), vit(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": {"shortest_edge": 30}, "crop_size": {"height": 20, "width": 24}},
        {"offset": False, "rescale_factor": 1 / 255, "size": {"height": 24, "width": 24}, "crop_size": 20},
        {"do_normalize": False, "size": 24, "crop_size": 16},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_center_crop": False, "resample": 3},
    ],
)
def test_a_vivit_processor(settings: dict[str, Any], tmp_path: Path) -> None:
    transformers.VivitImageProcessor(**settings).save_pretrained(tmp_path)
    processor = VideoProcessor.from_pretrained(tmp_path)
    expected = vivit(**settings)
    np.testing.assert_array_equal(processor(CLIP), expected)
    saved = processor.to_dict()
    assert saved["image_processor_type"] == ("VivitImageProcessor" if processor.offset else "VideoMAEImageProcessor")
    np.testing.assert_array_equal(VideoProcessor.from_dict(saved)(CLIP), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_processor_type": "ViTImageProcessor", "do_center_crop": True}, "do_center_crop is True: ViTImage"),
        ({"image_processor_type": "ViTImageProcessor", "do_resize": None}, "do_resize is None"),
        ({"image_processor_type": "ViTImageProcessor", "offset": True}, "offset is True"),
        (
            {"image_processor_type": "ViTImageProcessor", "size": 16, "default_to_square": False},
            "default_to_square is False: ViTImageProcessor heeds it in some versions",
        ),
        ({"image_processor_type": "VivitImageProcessor", "do_rescale": False}, "offset is true, but do_rescale is"),
        ({"image_processor_type": "VivitImageProcessor", "offset": 1}, "offset is 1: it must be true or false"),
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor is not supported; the classes that are"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order is True: it would change pixels"),
        ({"size": {"longest_edge": 16}}, "size is .*: it must have height and width, or shortest_edge"),
        ({"resample": "bicubic"}, "resample is 'bicubic'"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_doubtful_settings_are_refused_by_name(
    values: dict[str, Any], message: str, nested: bool, tmp_path: Path
) -> None:
    name = NESTED if nested else "preprocessor_config.json"
    write(tmp_path / name, {"image_processor": values} if nested else values)
    with pytest.raises(ConfigError, match=message) as caught:
        VideoProcessor.from_pretrained(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_settings_that_are_null_or_alone_in_one_version() -> None:
    # Written by Transformers 5 for its own ViTImageProcessor, which 4.x can't resize with: one meaning is left.
    values = {"size": {"shortest_edge": 30}, "crop_size": {"height": 20, "width": 20}, "do_center_crop": True}
    processor = VideoProcessor.from_dict({"image_processor_type": "ViTImageProcessor", **values})
    assert (processor.size, processor.output_size) == (30, (20, 20))
    size = {"height": 20, "width": 10, "shortest_edge": None, "longest_edge": None}
    assert VideoProcessor.from_dict({"size": size, "do_center_crop": False}).output_size == (20, 10)


# Transformers 5's nested file

VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 20}}
VIDEO = {"video_processor_type": "TimesformerVideoProcessor", "size": {"shortest_edge": 30}, "crop_size": 20}


def test_the_nested_file_of_transformers_5(tmp_path: Path) -> None:
    file = write(tmp_path / NESTED, {"processor_class": "SomeProcessor", "image_processor": VIT})
    np.testing.assert_array_equal(VideoProcessor.from_pretrained(tmp_path)(CLIP), vit(size=VIT["size"]))
    assert VideoProcessor.from_pretrained(file) == VideoProcessor.from_dict(json.loads(file.read_text()), str(file))
    write(file, {"video_processor": VIDEO})
    processor = VideoProcessor.from_pretrained(tmp_path)
    assert (processor.size, processor.crop_size, processor.image_mean) == (30, (20, 20), (0.485, 0.456, 0.406))
    write(file, {"video_processor": {"size": 30}})
    assert VideoProcessor.from_pretrained(tmp_path).image_mean == (0.485, 0.456, 0.406)  # a video processor's default
    write(file, {"image_processor": {"size": 30}, "tokenizer": {"a": 1}})
    assert VideoProcessor.from_pretrained(tmp_path).image_mean == (0.5, 0.5, 0.5)


def test_an_older_processor_config_is_none(tmp_path: Path) -> None:
    file = write(tmp_path / NESTED, {"processor_class": "SomeProcessor"})
    assert find_processor_files(tmp_path) == []
    with pytest.raises(ConfigError, match=r"There is no .*, nor a processor_config\.json with settings of pixels"):
        VideoProcessor.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"holds no settings of pixels, neither image_processor nor video_processor"):
        VideoProcessor.from_pretrained(file)
    VideoProcessor(size=30).save_pretrained(tmp_path)
    assert VideoProcessor.from_pretrained(tmp_path).size == 30  # without a warning
    file.write_text("{")
    with pytest.warns(UserWarning, match=r"processor_config\.json is not valid JSON .*; preprocessor_config\.json is"):
        assert VideoProcessor.from_pretrained(tmp_path).size == 30
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="not valid JSON"):
        VideoProcessor.from_pretrained(tmp_path)


def test_the_warning_names_all_files_that_differ(tmp_path: Path) -> None:
    VideoProcessor(size=256).save_pretrained(tmp_path)
    video = write(tmp_path / "video_preprocessor_config.json", VideoProcessor(size=256, resample=3).to_dict())
    same = VideoProcessor(size=256).to_dict()
    nested = write(tmp_path / NESTED, {"image_processor": same, "video_processor": VIDEO})
    with pytest.warns(UserWarning, match="is used") as caught:
        assert VideoProcessor.from_pretrained(tmp_path).size == 256
    (message,) = [str(warning.message) for warning in caught]
    assert f"{video} differs from preprocessor_config.json beside it in resample;" in message
    assert f"{nested} (video_processor) differs from preprocessor_config.json beside it in size, crop_size," in message
    assert f"{nested} (image_processor)" not in message
    assert "--processor FILE" in message
    assert VideoProcessor.from_pretrained(video).resample == 3  # without a warning
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"differs from video_preprocessor_config\.json beside it"):
        assert VideoProcessor.from_pretrained(tmp_path).resample == 3
    video.unlink()
    with pytest.warns(UserWarning, match=r"processor_config\.json \(image_processor\) is used"):
        assert VideoProcessor.from_pretrained(tmp_path).size == 256
    write(nested, {"image_processor": same, "video_processor": {"video_processor_type": "NewVideoProcessor"}})
    with pytest.warns(UserWarning, match=r"\(video_processor\): NewVideoProcessor is not supported"):
        assert VideoProcessor.from_pretrained(tmp_path).size == 256


@pytest.mark.slow
@pytest.mark.skipif("TRANSFORMERS5_PYTHON" not in os.environ, reason="needs a Python with Transformers 5")
def test_a_nested_file_that_transformers_5_wrote(tmp_path: Path) -> None:
    program = """
import sys
from transformers import ProcessorMixin, VivitImageProcessor, ViTImageProcessor
class Both(ProcessorMixin):
    def __init__(self, image_processor=None, **kwargs):
        super().__init__(image_processor, **kwargs)
for name, processor in (("vit", ViTImageProcessor(size={"height": 12, "width": 20}, resample=3)),
                        ("vivit", VivitImageProcessor(size={"shortest_edge": 30}, crop_size=20))):
    Both(processor).save_pretrained(f"{sys.argv[1]}/{name}")
"""
    subprocess.run(
        [os.environ["TRANSFORMERS5_PYTHON"], "-c", program, tmp_path], check=True, env={"PATH": os.environ["PATH"]}
    )
    for name, expected in (
        ("vit", vit(size={"height": 12, "width": 20}, resample=3)),
        ("vivit", vivit(size={"shortest_edge": 30}, crop_size=20)),
    ):
        assert [file.name for file in find_processor_files(tmp_path / name)] == [NESTED]
        np.testing.assert_array_equal(VideoProcessor.from_pretrained(tmp_path / name)(CLIP), expected)


# Another size


@pytest.mark.parametrize(
    ("settings", "size", "expected"),
    [
        ({}, (112, 112), {"size": 112, "crop_size": (112, 112)}),
        ({"size": 256}, (112, 112), {"size": 128, "crop_size": (112, 112)}),
        ({"size": 256}, (112, 224), {"size": 128, "crop_size": (112, 224)}),
        ({"size": (256, 288)}, (112, 448), {"size": (128, 576), "crop_size": (112, 448)}),
        ({"do_resize": False}, (112, 112), {"do_resize": False, "crop_size": (112, 112)}),
        ({"do_center_crop": False, "size": (20, 10)}, (40, 40), {"size": (40, 40), "do_center_crop": False}),
        ({"do_center_crop": False, "size": 20}, (40, 60), {"size": 40, "crop_size": (40, 60), "do_center_crop": True}),
        ({"do_center_crop": False, "do_resize": False}, (8, 9), {"size": 8, "crop_size": (8, 9), "do_resize": True}),
    ],
)
def test_another_size_shows_the_same_part(
    settings: dict[str, Any], size: tuple[int, int], expected: dict[str, Any]
) -> None:
    before = VideoProcessor(**settings)
    after = before.with_output_size(*size)
    assert {name: getattr(after, name) for name in expected} == expected
    assert after.output_size == size
    assert after(CLIP).shape == (1, 2, *size, 3)
    assert after.with_output_size(*size) is after
    if before.output_size is not None:
        assert before.with_output_size(*before.output_size) is before
