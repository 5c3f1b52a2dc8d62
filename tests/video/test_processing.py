"""Pixel values equal, bit for bit, those of Transformers' VideoMAEImageProcessor."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytorch import transformers
from videos import moving_pictures, write_video

from timesformer_jax.errors import ConfigError, VideoError
from timesformer_jax.video.processing import VideoProcessor
from timesformer_jax.video.reading import read_clip


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def reference(clip: np.ndarray, layout: dict[str, Any]) -> np.ndarray:
    """(1, t, h, w, 3), by Transformers."""
    processor = transformers.VideoMAEImageProcessor(**layout)
    frames = [processor(frame, return_tensors="np", input_data_format="channels_last") for frame in clip]
    return np.concatenate([frame["pixel_values"] for frame in frames], axis=1).transpose(0, 1, 3, 4, 2)


def assert_equal_to_reference(clip: np.ndarray, layout: dict[str, Any]) -> None:
    values = VideoProcessor.from_dict(layout)(clip)
    expected = reference(clip, layout)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)


HUB = {
    "image_processor_type": "VideoMAEImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 2,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.45, 0.45, 0.45],
    "image_std": [0.225, 0.225, 0.225],
}


@pytest.mark.parametrize("size", [(240, 426), (426, 240), (256, 340), (224, 224), (100, 181), (511, 233)])
def test_the_published_preprocessing_on_frames_of_a_video(size: tuple[int, int], tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_pictures(9, *size), pix_fmt="yuv444p")
    clip = read_clip(path, 3)
    assert_equal_to_reference(clip, HUB)
    np.testing.assert_array_equal(VideoProcessor()(clip), reference(clip, HUB))


edges = st.integers(4, 40)  # 1 and 3 would be taken for channels by the reference
per_channel = st.tuples(*[st.floats(0.01, 2)] * 3)
layouts = st.fixed_dictionaries(
    {
        "do_resize": st.booleans(),
        "size": st.one_of(
            st.fixed_dictionaries({"shortest_edge": edges}),
            st.fixed_dictionaries({"height": edges, "width": edges}),
            edges,
        ),
        "resample": st.sampled_from(Image.Resampling).map(int),
        "do_center_crop": st.booleans(),
        "crop_size": st.one_of(st.fixed_dictionaries({"height": edges, "width": edges}), edges),
        "do_rescale": st.booleans(),
        "rescale_factor": st.one_of(st.just(1 / 255), st.just(1), st.floats(1e-4, 2)),
        "do_normalize": st.booleans(),
        "image_mean": st.one_of(per_channel.map(list), st.floats(0, 1)),
        "image_std": st.one_of(per_channel.map(list), st.floats(0.01, 2)),
    }
)


@settings(max_examples=300, deadline=None)
@given(layouts, edges, edges)
def test_any_setting_and_size(layout: dict[str, Any], height: int, width: int) -> None:
    assert_equal_to_reference(noise(2, height, width), layout)


def test_settings_left_out_are_those_of_the_class_that_wrote_the_file() -> None:
    clip = noise(2, 240, 320)
    assert_equal_to_reference(clip, {})
    assert VideoProcessor.from_dict({}).image_mean == (0.5, 0.5, 0.5)
    assert VideoProcessor.from_dict({"feature_extractor_type": "VideoMAEFeatureExtractor"}).image_std == (0.5, 0.5, 0.5)
    for processor in (
        VideoProcessor.from_dict({"video_processor_type": "TimesformerVideoProcessor", "image_mean": None}),
        VideoProcessor.from_dict({}, source="some/video_preprocessor_config.json"),
    ):
        assert processor.image_mean == (0.485, 0.456, 0.406)
        assert processor.image_std == (0.229, 0.224, 0.225)
        assert (processor.size, processor.crop_size) == (224, (224, 224))


def test_the_two_halves_make_the_whole() -> None:
    clip = noise(4, 30, 41)
    processor = VideoProcessor(size=20, crop_size=(16, 18), image_mean=(0.1, 0.2, 0.3))
    frames = processor.resize_and_crop(clip)
    assert frames.dtype == np.uint8
    assert frames.shape == (4, 16, 18, 3)
    values = (frames / 255 - [0.1, 0.2, 0.3]) / 0.225
    np.testing.assert_allclose(processor.rescale_and_normalize(frames), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(processor.rescale_and_normalize(frames)[None], processor(clip))


def test_bgr_swaps_the_frames_but_not_mean_and_deviation() -> None:
    clip = noise(2, 30, 40)
    settings = {"size": 16, "crop_size": 16, "image_mean": (0.1, 0.2, 0.3), "image_std": (0.4, 0.5, 0.6)}
    np.testing.assert_array_equal(
        VideoProcessor(**settings, channel_order="bgr")(clip), VideoProcessor(**settings)(clip[..., ::-1].copy())
    )


def test_what_a_call_takes() -> None:
    processor = VideoProcessor(size=16, crop_size=16)
    clips = noise(3, 4, 20, 30)
    batch = processor(clips)
    assert batch.shape == (3, 4, 16, 16, 3)
    np.testing.assert_array_equal(processor(list(clips)), batch)
    np.testing.assert_array_equal(processor([list(clip) for clip in clips]), batch)
    np.testing.assert_array_equal(processor([[Image.fromarray(frame) for frame in clip] for clip in clips]), batch)
    np.testing.assert_array_equal(processor([Image.fromarray(frame) for frame in clips[1]]), batch[1:2])
    np.testing.assert_array_equal(processor(list(clips[1])), batch[1:2])
    np.testing.assert_array_equal(processor(clips[1]), batch[1:2])
    # Frames and clips of several sizes come out alike.
    mixed = [Image.fromarray(noise(20, 30)), Image.fromarray(noise(25, 18))]
    assert processor(mixed).shape == (1, 2, 16, 16, 3)
    gray = Image.fromarray(noise(20, 30)).convert("L")
    np.testing.assert_array_equal(processor([gray]), processor([gray.convert("RGB")]))


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "At least one clip"),
        ([[]], "The frames of a clip must have one size, but they have none"),
        (noise(2, 8, 8).astype(np.float32), "A frame of shape .8, 8, 3. and type float32"),
        (noise(2, 8, 8).transpose(0, 3, 1, 2), "A frame of shape .3, 8, 8. and type uint8"),
        (noise(8, 8), "A frame of shape .3,. and"),
        ([noise(2, 8, 8), noise(3, 8, 8)], "The clips of a batch must have one shape"),
    ],
)
def test_what_a_call_does_not_take(videos: Any, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        VideoProcessor(size=8, crop_size=8)(videos)


def test_frames_of_several_sizes_that_stay_so() -> None:
    with pytest.raises(VideoError, match="one size, but they have 8x9, 9x8"):
        VideoProcessor(do_resize=False, do_center_crop=False)([noise(8, 9), noise(9, 8)])


def test_processors_are_values() -> None:
    one = VideoProcessor(size=(8, 9), image_mean=0.5, crop_size=4)
    same = VideoProcessor(size=(8, 9), image_mean=(0.5, 0.5, 0.5), crop_size=(4, 4))
    assert one == same
    assert hash(one) == hash(same)
    assert one != dataclasses.replace(one, channel_order="bgr")


# Files


def test_transformers_reads_what_is_saved(tmp_path: Path) -> None:
    processor = VideoProcessor(size=(40, 50), crop_size=(30, 33), resample=3, image_mean=(0.1, 0.2, 0.3))
    processor.save_pretrained(tmp_path / "new" / "directory")
    assert [file.name for file in (tmp_path / "new" / "directory").iterdir()] == ["preprocessor_config.json"]
    clip = noise(2, 60, 80)
    (tmp_path / "new" / "directory" / "config.json").write_text(json.dumps({"model_type": "timesformer"}))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / "new" / "directory")
    assert type(theirs) is transformers.VideoMAEImageProcessor
    expected = theirs(list(clip), return_tensors="np")["pixel_values"].transpose(0, 1, 3, 4, 2)
    np.testing.assert_array_equal(processor(clip), expected)
    assert VideoProcessor.from_pretrained(tmp_path / "new" / "directory") == processor


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    theirs = transformers.VideoMAEImageProcessor(
        size={"shortest_edge": 30}, crop_size={"height": 28, "width": 20}, image_std=[1, 2, 3]
    )
    theirs.save_pretrained(tmp_path)
    ours = VideoProcessor.from_pretrained(tmp_path)
    assert (ours.size, ours.crop_size, ours.image_std) == (30, (28, 20), (1.0, 2.0, 3.0))
    assert ours == VideoProcessor.from_pretrained(tmp_path / "preprocessor_config.json")
    assert ours.to_dict() == json.loads((tmp_path / "preprocessor_config.json").read_text())


def test_the_layout_of_transformers_5(tmp_path: Path) -> None:
    layout = {
        "video_processor_type": "TimesformerVideoProcessor",
        "crop_size": {"height": 224, "width": 224},
        "data_format": "channels_first",
        "default_to_square": False,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": None,
        "do_rescale": True,
        "do_resize": True,
        "do_sample_frames": True,  # which frames is not for the processor to choose: they come sampled
        "num_frames": 8,
        "fps": None,
        "image_mean": [0.45, 0.45, 0.45],
        "image_std": [0.225, 0.225, 0.225],
        "pad_size": None,
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "return_metadata": False,
        "size": {"shortest_edge": 224},
    }
    file = tmp_path / "video_preprocessor_config.json"
    file.write_text(json.dumps(layout))
    processor = VideoProcessor.from_pretrained(tmp_path)
    assert dataclasses.replace(processor, other=()) == VideoProcessor()
    assert processor == VideoProcessor.from_pretrained(file)
    saved = processor.to_dict()
    assert saved["data_format"] == "channels_first"
    assert saved["image_processor_type"] == "VideoMAEImageProcessor"
    assert "video_processor_type" not in saved


def test_of_two_files_the_image_processors_is_used(tmp_path: Path) -> None:
    VideoProcessor(size=256).save_pretrained(tmp_path)
    other = VideoProcessor(size=256).to_dict() | {
        "image_processor_type": "VideoMAEVideoProcessor",
        "return_metadata": False,
    }
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(other))
    assert VideoProcessor.from_pretrained(tmp_path).size == 256  # without a warning: both say the same of pixels
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(other | {"size": 300, "resample": 3}))
    with pytest.warns(UserWarning, match=r"differs from preprocessor_config\.json beside it in size, resample"):
        assert VideoProcessor.from_pretrained(tmp_path).size == 256


def test_keys_without_effect_are_kept(tmp_path: Path) -> None:
    layout = HUB | {"processor_class": "Some", "nested": {"a": [1, None]}, "other": 3}
    processor = VideoProcessor.from_dict(layout)
    hash(processor)
    assert processor.to_dict() == layout


def test_bgr_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    VideoProcessor().save_pretrained(tmp_path)
    VideoProcessor.from_pretrained(tmp_path)
    assert capsys.readouterr() == ("", "")
    VideoProcessor(channel_order="bgr").save_pretrained(tmp_path)
    assert VideoProcessor.from_pretrained(tmp_path).channel_order == "bgr"
    printed = capsys.readouterr()
    assert "BGR" in printed.err
    assert str(tmp_path) in printed.err


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    VideoProcessor(size=100).save_pretrained(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", fail)
        with pytest.raises(OSError, match="disk full"):
            VideoProcessor(size=200).save_pretrained(tmp_path)
    assert VideoProcessor.from_pretrained(tmp_path).size == 100
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": -224}, "size is -224"),
        ({"size": {"shortest_edge": 0}}, "size is 0"),
        ({"size": {"shortest_edge": 224.5}}, "size is 224.5"),
        ({"size": {"shortest_edge": "224"}}, "size is '224'"),
        ({"size": [224]}, r"size is \(224,\)"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "size is .* or shortest_edge, and nothing else"),
        ({"crop_size": {"shortest_edge": 224}}, "crop_size is .* height and width, and nothing else"),
        ({"crop_size": {"height": 224, "width": True}}, "crop_size is"),
        ({"resample": 99}, r"resample is 99: the known filters are 0 \(nearest\)"),
        ({"resample": "bilinear"}, "resample is 'bilinear'"),
        ({"do_resize": 1}, "do_resize is 1: it must be true or false"),
        ({"do_center_crop": None}, "do_center_crop is None"),
        ({"rescale_factor": "1/255"}, "rescale_factor is '1/255'"),
        ({"rescale_factor": float("nan")}, "rescale_factor is nan"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean is \(0.5, 0.5\)"),
        ({"image_mean": [0.5, 0.5, None]}, "image_mean is"),
        ({"image_std": [0.5, 0, 0.5]}, r"image_std is \(0.5, 0, 0.5\): pixels can't be divided by zero"),
        ({"image_std": 0}, "image_std is 0"),
        ({"image_std": {"r": 1}}, "image_std is"),
        ({"channel_order": "rbg"}, "channel_order is 'rbg'"),
        ({"do_pad": True}, "do_pad is True: it would change pixels and is not supported"),
        ({"offset": True}, "offset is True"),
        ({"size": 224, "default_to_square": True}, "default_to_square is True"),
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor is not supported"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(HUB | change))
    with pytest.raises(ConfigError, match=message) as caught:
        VideoProcessor.from_pretrained(tmp_path)
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_a_file_that_is_no_json_object(text: str, tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
        VideoProcessor.from_pretrained(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"There is no preprocessor_config\.json or video_preprocessor_config\.json in"
    ):
        VideoProcessor.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"There is no .*missing\.json"):
        VideoProcessor.from_pretrained(tmp_path / "missing.json")
