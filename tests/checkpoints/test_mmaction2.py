"""mmaction2's checkpoints: the same logits as its forward order gives, and what their meta tells."""

import contextlib
import json
import keyword
import logging
from pathlib import Path
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from mmaction2_checkpoints import Recognizer, config_text, save_mmaction2, tiny_recognizer
from pytorch import torch

from timesformer_jax import TimesformerForVideoClassification
from timesformer_jax.checkpoints.inspection import inspect_checkpoint
from timesformer_jax.checkpoints.mapping import flat_names
from timesformer_jax.checkpoints.mmaction2_config import read_mmaction2_config
from timesformer_jax.checkpoints.open import load_checkpoint, open_checkpoint, processor_for
from timesformer_jax.errors import CheckpointError

TYPES = ("divided_space_time", "joint_space_time", "space_only")


def clips(model: Recognizer) -> torch.Tensor:
    """Random clips (batch, channels, frames, height, width), in double precision."""
    settings = model.settings
    shape = (2, settings["in_channels"], settings["num_frames"], *settings["img_size"])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_same_params(actual: Any, expected: Any) -> None:
    expected = flat_names(expected)
    assert flat_names(actual).keys() == expected.keys()
    for name, leaf in flat_names(actual).items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


def logits_here(path: Path, pixels: torch.Tensor, **options: Any) -> np.ndarray:
    model, params = TimesformerForVideoClassification.from_pretrained(path, dtype=jnp.float64, **options)
    return np.asarray(jax.jit(model.apply)({"params": params}, pixels.permute(0, 2, 3, 4, 1).numpy()).logits)


@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize("attention_type", TYPES)
def test_logits_equal_the_forward_order_of_mmaction2(attention_type: str, tmp_path: Path) -> None:
    model = tiny_recognizer(attention_type=attention_type)
    path = save_mmaction2(tmp_path / "a.pth", model)
    with torch.no_grad():
        expected = model(clips(model)).numpy()
    assert np.ptp(expected) > 1, "logits that tell the classes apart"
    np.testing.assert_allclose(logits_here(path, clips(model)), expected, rtol=1e-12, atol=1e-12)  # rounding alone


def test_the_backbone_alone(tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    torch.save({f"module.{name}": t for name, t in model.backbone.state_dict().items()}, tmp_path / "a.pth")
    bare = load_checkpoint(tmp_path / "a.pth", num_attention_heads=2, image_size=(8, 12))
    whole = load_checkpoint(save_mmaction2(tmp_path / "b.pth", model), head=False)
    assert not str(bare.changes)
    assert_same_params(bare.params, whole.params)


def test_version_0(tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    old, new = (load_checkpoint(save_mmaction2(tmp_path / f"{v}.pth", model, version=v)) for v in (0, 1))
    assert (old.config, processor_for(old)) == (new.config, processor_for(new))
    assert_same_params(old.params, new.params)


def test_what_the_config_tells(tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    text = config_text(model, interval=16, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    names = [f"class {i}" for i in range(7)]
    path = save_mmaction2(tmp_path / "a.pth", model, text=text, meta={"dataset_meta": {"classes": names}})
    opened = open_checkpoint(path)
    config, processor = opened.config, processor_for(opened)
    assert (config.image_size, config.num_frames, config.num_attention_heads) == ((8, 12), 3, 2)
    assert (config.sampling_rate, config.layer_norm_eps, list(config.id2label.values())) == (16, 1e-6, names)
    np.testing.assert_allclose(processor.image_mean, (0.485, 0.456, 0.406), rtol=1e-12)
    np.testing.assert_allclose(processor.image_std, (0.229, 0.224, 0.225), rtol=1e-12)
    assert (processor.channel_order, processor.crop_size) == ("rgb", (8, 12))
    report = inspect_checkpoint(path)
    assert report.kind == "TimeSformer in the format of mmaction2"
    assert not report.problems
    assert "every 16 frames" in str(report)
    assert "saved after epoch 15" in str(report)


@pytest.mark.parametrize("version", [0, 1])
def test_swapped_channels(version: int, tmp_path: Path) -> None:
    """Both versions decode to RGB, and swap when told to; then mean and deviation count in the order BGR."""
    model = tiny_recognizer(torch.float32)
    text = config_text(model, version=version, swap=True, mean=[1.0, 2.0, 3.0])
    processor = processor_for(open_checkpoint(save_mmaction2(tmp_path / "a.pth", model, text=text, version=version)))
    assert processor.channel_order == "bgr"
    np.testing.assert_allclose(processor.image_mean, np.array([1, 2, 3]) / 255, rtol=1e-12)
    pixels = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(1, 8, 12, 3)
    expected = (pixels[..., ::-1].astype(np.float64) - [1, 2, 3]) / 127.5
    np.testing.assert_allclose(processor(pixels)[0], expected, rtol=1e-5, atol=1e-5)  # float32


@pytest.mark.parametrize(
    "section", ["data_preprocessor=dict(type='ActionDataPreprocessor'),", "data_preprocessor=None,", "train_cfg=None,"]
)
def test_frames_that_were_not_normalised(section: str, tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    path = save_mmaction2(tmp_path / "a.pth", model, text=config_text(model, model_section=section))
    pixels = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(1, 8, 12, 3)
    np.testing.assert_allclose(processor_for(open_checkpoint(path))(pixels)[0], pixels, rtol=1e-5)  # float32


SAMPLE = "dict(type='SampleFrames', clip_len=3,"


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        ("dict(type='SampleFrames', clip_len=3, frame_interval=8, num_clips=4)", 8),
        ("dict(type='DenseSampleFrames', clip_len=3, frame_interval=4, num_clips=1, target_fps=15)", 8),
        ("dict(type='UniformSample', clip_len=3, num_clips=1)", "segments"),
        ("dict(type='mmaction.datasets.transforms.SampleFrames', clip_len=3, frame_interval=2)", 2),
        (f"{SAMPLE} frame_interval=4), {SAMPLE} frame_interval=16, test_mode=True)", 4),
        (f"{SAMPLE} frame_interval=16, test_mode=True)", 16),
        (f"{SAMPLE} frame_interval=4), {SAMPLE} frame_interval=16)", None),
        ("dict(type='SampleFrames', clip_len=4, frame_interval=8)", None),
        ("dict(type='OwnSampling', clip_len=3)", None),
    ],
)
def test_sampling(step: str, rate: Any, tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    text = config_text(model)
    start, end = text.index("test_pipeline"), text.index("work_dir")
    text = f"{text[:start]}train_pipeline = [{step}]\n{text[end:]}"
    assert open_checkpoint(save_mmaction2(tmp_path / "a.pth", model, text=text)).config.sampling_rate == rate


@pytest.mark.parametrize(
    ("loss", "problem_type"),
    [("CrossEntropyLoss", None), ("mmaction.models.BCELossWithLogits", "multi_label_classification")],
)
def test_several_labels_a_video(loss: str, problem_type: str | None, tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    text = config_text(model).replace("average_clips='prob',", f"loss_cls=dict(loss_weight=333., type='{loss}'),")
    assert open_checkpoint(save_mmaction2(tmp_path / "a.pth", model, text=text)).config.problem_type == problem_type


def test_a_bare_state_dict_needs_what_no_shape_tells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_recognizer(torch.float32, img_size=(8, 8))
    path = save_mmaction2(tmp_path / "a.pth", model, text=None)
    with pytest.raises(CheckpointError, match="give num_attention_heads"):
        open_checkpoint(path)
    opened = open_checkpoint(path, num_attention_heads=2)
    assert processor_for(opened).image_mean == (0.5, 0.5, 0.5)
    assert "does not tell how its frames were normalised" in caplog.text


def test_statistics_among_the_tensors(tmp_path: Path) -> None:
    """As early releases of version 1 keep them."""
    model = tiny_recognizer(torch.float32)
    state = model.state_dict() | {
        f"data_preprocessor.{name}": torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1) for name in ("mean", "std")
    }
    torch.save(
        {"state_dict": state, "meta": {"cfg": config_text(model, mean=[1, 2, 3], std=[1, 2, 3])}}, tmp_path / "a"
    )
    checkpoint = load_checkpoint(tmp_path / "a")
    assert not str(checkpoint.changes)
    np.testing.assert_allclose(processor_for(checkpoint).image_mean, np.array([1, 2, 3]) / 255, rtol=1e-6)
    torch.save({"state_dict": state, "meta": {"cfg": config_text(model)}}, tmp_path / "b")
    with pytest.raises(CheckpointError, match="contradicts itself: its config says mean"):
        open_checkpoint(tmp_path / "b")


REFUSED = [
    ({"backbone": "norm_cfg=dict(type='LN', eps=1e-5), "}, "its config asks for norm_cfg"),
    ({"backbone": "norm_cfg=dict(type='LN'), "}, "its config asks for norm_cfg"),
    ({"backbone": "norm_cfg=dict(type='BN', eps=1e-6), "}, "its config asks for norm_cfg"),
    ({"backbone": "transformer_layers=dict(type='TransformerLayerSequence'), "}, "transformer_layers of its own"),
    ({"backbone": "num_transformer_layers=12, "}, "says num_transformer_layers 12 but tensors for 2"),
    ({"backbone": "attention_type='joint_space_time', "}, "says attention_type 'joint_space_time' but tensors for"),
    ({"backbone": "img_size=224, "}, "image_size=|position embeddings are for 6 patches"),
    ({"mean": [1.0, 2.0]}, "which can't be"),
    ({"std": [0.0, 1.0, 1.0]}, "which can't be"),
    ({"mean": None}, "which can't be"),
]


@pytest.mark.parametrize(("changes", "problem"), REFUSED, ids=[problem for _, problem in REFUSED])
def test_another_model_than_its_config_says(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    text = config_text(model, **changes)
    if "backbone" in changes:  # the setting stands there already
        name = changes["backbone"].partition("=")[0]
        lines = [
            line for line in text.splitlines() if not line.strip().startswith(f"{name}=") or "type='TimeSf" in line
        ]
        text = "\n".join(lines)
    with pytest.raises(CheckpointError, match=problem) as error:
        open_checkpoint(save_mmaction2(tmp_path / "a.pth", model, text=text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model = dict(", "no text of settings"),
        ("model = \0", "no text of settings"),
        ("x = " + "-" * 100_000 + "1", "no text of settings"),
        (b"model = dict()", "no text of settings"),
        ("model = dict(backbone=dict(type='SwinTransformer3D'))", "asks for type='SwinTransformer3D'"),
    ],
    ids=["cut", "null", "deep", "bytes", "another"],
)
def test_configs_that_can_not_be(text: Any, problem: str, tmp_path: Path) -> None:
    path = save_mmaction2(tmp_path / "a.pth", tiny_recognizer(torch.float32), text=text)
    with pytest.raises(CheckpointError, match=problem) as error:
        open_checkpoint(path, num_attention_heads=2, image_size=(8, 12))
    assert "\n" not in str(error.value)


KEYS = st.from_regex(r"[a-z_]{1,5}", fullmatch=True).filter(lambda key: not keyword.iskeyword(key))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
OTHER_KEYS = st.text(max_size=5).filter(lambda key: not key.isidentifier())
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.dictionaries(OTHER_KEYS, inner),
    max_leaves=8,
)


def written(value: Any) -> str:
    """A value as configs are written: `dict(...)` where all keys can be names, around a literal elsewhere."""
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if not isinstance(value, dict):
        return repr(value)
    if all(map(str.isidentifier, value)):
        return f"dict({', '.join(f'{key}={written(item)}' for key, item in value.items())})"
    return f"dict({{{', '.join(f'{key!r}: {written(item)}' for key, item in value.items())}}})"


def frozen(value: Any) -> Any:
    """Lists as the tuples that are read."""
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list) else value


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_values_of_a_config(values: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {written(value)}" for key, value in values.items())
    found = read_mmaction2_config(Path("a.pth"), {"cfg": text}).values
    assert json.dumps(found, sort_keys=True) == json.dumps(frozen(values), sort_keys=True)


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(st.text() | st.binary().map(lambda data: data.decode("latin-1")) | st.just("x = 1\n" * 3))
def test_any_text_is_a_config_or_refused(text: str) -> None:
    with contextlib.suppress(CheckpointError):
        assert isinstance(read_mmaction2_config(Path("a.pth"), {"config": text}).values, dict)


def test_a_config_is_never_run(tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    place = repr(str(tmp_path / "ran"))
    text = f"import os\nx = open({place}, 'w')\nos.mkdir({place})\n{config_text(model)}"
    assert open_checkpoint(save_mmaction2(tmp_path / "a.pth", model, text=text)).config.sampling_rate == 32
    assert not (tmp_path / "ran").exists()


def test_wrong_classes_and_other_models(tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    path = save_mmaction2(tmp_path / "a.pth", model, meta={"CLASSES": ("a", "b")})
    with pytest.raises(CheckpointError, match="its meta names 2 classes, and its tensors are for 7"):
        open_checkpoint(path)
    torch.save({"backbone.patch_embed.projection.weight": torch.zeros(8, 3, 2, 2)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="is a model of OpenMMLab, but no TimeSformer"):
        open_checkpoint(tmp_path / "b.pth")


def test_errors_name_tensors_as_the_file_does(tmp_path: Path) -> None:
    model = tiny_recognizer(torch.float32)
    state = model.state_dict()
    del state["backbone.transformer_layers.layers.1.attentions.0.attn.in_proj_bias"]
    del state["backbone.transformer_layers.layers.0.ffns.0.norm.weight"]
    state["backbone.transformer_layers.layers.0.attentions.1.gamma.weight"] = torch.zeros(2)
    state["cls_head.fc_cls.bias"] = torch.zeros(5)
    torch.save({"state_dict": state, "meta": {"cfg": config_text(model)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "a.pth")
    for line in (
        "missing: backbone.transformer_layers.layers.1.attentions.0.attn.in_proj_bias (72,)",
        "missing: backbone.transformer_layers.layers.0.ffns.0.norm.weight (24,)",
        "unknown: backbone.transformer_layers.layers.0.attentions.1.gamma.weight (2,)",
        "wrong shape: cls_head.fc_cls.bias is (5,), the config asks for (7,)",
    ):
        assert line in str(error.value)


def test_moving_averages_of_mmengine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """mmengine puts the average into "state_dict", and what was averaged into "ema_state_dict"."""
    caplog.set_level(logging.WARNING)
    average, last = tiny_recognizer(torch.float32), tiny_recognizer(torch.float32)
    last.cls_head.fc_cls.bias.data += 1
    ema = {"steps": torch.tensor(3)} | {f"module.{name}": tensor for name, tensor in last.state_dict().items()}
    contents = {"state_dict": average.state_dict(), "ema_state_dict": ema, "meta": {"cfg": config_text(average)}}
    torch.save(contents, tmp_path / "a.pth")
    for weights, model in ((None, average), ("ema", average), ("last", last)):
        caplog.clear()
        params = load_checkpoint(tmp_path / "a.pth", training_weights=weights).params
        np.testing.assert_array_equal(params["classifier"]["bias"], model.cls_head.fc_cls.bias.detach())
        assert ("holds a moving average" in caplog.text) == (weights is None)
        assert ("steps" in caplog.text) == (weights == "last")
