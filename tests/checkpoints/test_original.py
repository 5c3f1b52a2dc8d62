"""The original repository's .pyth files: their numbers, what is told by them, and what has to be asked for."""

import logging
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy_timesformer
import pytest
from pytorch import save_file, torch, transformers
from pytorch_checkpoints import ORIGINAL, original_cfg, original_reference, original_state, save_original
from reference import ATTENTION_TYPES, assert_close, clip, run_flax

from timesformer_jax import TimesformerForVideoClassification, TimesformerModel, VideoProcessor
from timesformer_jax.checkpoints.mapping import flat_names
from timesformer_jax.checkpoints.open import load_checkpoint, processor_for
from timesformer_jax.checkpoints.tensors import _MappedState
from timesformer_jax.errors import CheckpointError, ConfigError

# Rounding alone: float64 carries 1e-16, and sums of 128 terms over two layers lose some digits of it.
TOLERANCE = 1e-12


def load(path: Path, **options: Any) -> tuple[Any, Any]:
    return TimesformerForVideoClassification.from_pretrained(path, dtype="float64", **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_logits_equal_numpy(attention_type: str, tmp_path: Path) -> None:
    """Also shows that heads are 64 wide: the rewrite is told so by the reference's config."""
    reference = original_reference(attention_type=attention_type)
    model, params = load(save_original(tmp_path / "TimeSformer.pyth", reference))
    pixel_values = clip(model.config, batch=1)
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    expected = numpy_timesformer.run(tensors, reference.config, pixel_values).logits
    assert expected.std() > 0.5, "logits must vary to show anything"
    assert_close(run_flax(model, params, pixel_values).logits, expected, TOLERANCE, "logits")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_to_transformers_bit_for_bit(attention_type: str, dtype: torch.dtype, tmp_path: Path) -> None:
    reference = original_reference(attention_type=attention_type, dtype=dtype)
    model, params = TimesformerForVideoClassification.from_pretrained(save_original(tmp_path / "a.pyth", reference))
    model.save_pretrained(tmp_path / "hf", params)
    saved, info = transformers.TimesformerForVideoClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True, torch_dtype=dtype
    )
    assert not any(info.values()), info
    state = saved.state_dict()
    for name, tensor in reference.state_dict().items():
        assert torch.equal(state[name], tensor), name
    for field in ("attention_type", "num_frames", "image_size", "patch_size", "hidden_size", "num_attention_heads"):
        assert getattr(saved.config, field) == getattr(reference.config, field), field


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model.", "net.encoder."])
@pytest.mark.parametrize("layout", ["pyth", "state dict", "safetensors"])
def test_layouts(layout: str, prefix: str, tmp_path: Path) -> None:
    """Told by what is inside: none of the names here says what the file is."""
    reference = original_reference(dtype=torch.float32)
    path = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.bin")
    if layout == "pyth":
        save_original(path, reference, prefix=prefix)
    elif layout == "safetensors":
        save_file(original_state(reference, prefix), path)
    else:
        torch.save(original_state(reference, prefix), path)
    checkpoint = load_checkpoint(path)
    expected = load_checkpoint(save_original(tmp_path / "plain.pyth", reference))
    assert not str(checkpoint.changes)
    for name, leaf in flat_names(checkpoint.params).items():
        np.testing.assert_array_equal(leaf, flat_names(expected.params)[name], err_msg=name)
    told = {"sampling_rate": 32.0} if layout != "pyth" else {}
    assert checkpoint.config.replace(**told) == expected.config


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize(
    ("dataset", "rate", "sampling"), [("kinetics", 32, 32.0), ("kinetics", 4, 4.0), ("ssv2", 8, "segments")]
)
def test_config(attention_type: str, dataset: str, rate: int, sampling: object, tmp_path: Path) -> None:
    reference = original_reference(attention_type=attention_type)
    path = save_original(tmp_path / "a.pyth", reference, dataset=dataset, rate=rate)
    config = load_checkpoint(path).config
    expected = ORIGINAL | {"attention_type": attention_type, "num_channels": 3, "num_hidden_layers": 2}
    expected |= {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "qkv_bias": True, "sampling_rate": sampling}
    assert {name: getattr(config, name) for name in expected} == expected


def test_sampling_rate_is_at_30_frames_per_second(tmp_path: Path) -> None:
    reference = original_reference()
    cfg = original_cfg(reference, rate=8).replace("TARGET_FPS: 30", "TARGET_FPS: 60")
    assert load_checkpoint(save_original(tmp_path / "a.pyth", reference, cfg=cfg)).config.sampling_rate == 4


def test_bare_model(tmp_path: Path) -> None:
    """The encoder alone can be asked for, and is what a file without a classifier holds."""
    reference = original_reference(dtype=torch.float32)
    path = save_original(tmp_path / "a.pyth", reference)
    _, params = TimesformerModel.from_pretrained(path)
    state = {name: tensor for name, tensor in original_state(reference).items() if "head" not in name}
    torch.save({"model_state": state, "cfg": original_cfg(reference)}, tmp_path / "b.pyth")
    checkpoint = load_checkpoint(tmp_path / "b.pyth")
    assert "classifier" not in params
    for name, leaf in flat_names(checkpoint.params).items():
        np.testing.assert_array_equal(leaf, flat_names(params)[name], err_msg=name)


@pytest.mark.parametrize(
    ("setting", "other", "told"),
    [
        ("ATTENTION_TYPE: divided_space_time", "ATTENTION_TYPE: joint_space_time", "joint_space_time"),
        ("NUM_FRAMES: 3", "NUM_FRAMES: 8", "NUM_FRAMES 8 but tensors for 3"),
        ("TRAIN_CROP_SIZE: 20", "TRAIN_CROP_SIZE: 24", "TRAIN_CROP_SIZE 24 but tensors for 20"),
        ("NUM_CLASSES: 7", "NUM_CLASSES: 400", "NUM_CLASSES 400 but tensors for 7"),
        ("NUM_FRAMES: 3", "NUM_FRAMES: three", "three"),
        ("NUM_FRAMES: 3", "NUM_FRAMES: true", "NUM_FRAMES: True"),
        ("  - 0.44\n", "", "DATA.MEAN"),
        ("  - 0.44\n", "  - green\n", "DATA.MEAN"),
        ("DATASET: kinetics", "DATASET: 3", "TRAIN.DATASET"),
    ],
)
def test_contradictions(setting: str, other: str, told: str, tmp_path: Path) -> None:
    reference = original_reference()
    cfg = original_cfg(reference)
    assert setting in cfg
    path = save_original(tmp_path / "a.pyth", reference, cfg=cfg.replace(setting, other))
    with pytest.raises(CheckpointError, match=r"a\.pyth") as error:
        load_checkpoint(path)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "cfg",
    ["{", "a: [", "- 1\n- 2\n", "just words", b"DATA: {}", 3, "!!python/object/apply:os.mkdir ['{ran}']\n", "[" * 5000],
    ids=["brace", "bracket", "list", "words", "bytes", "number", "code", "deep"],
)
def test_settings_that_are_none(cfg: Any, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    cfg = cfg.format(ran=ran) if isinstance(cfg, str) and "{ran}" in cfg else cfg
    with pytest.raises(CheckpointError, match=r"a\.pyth: its cfg"):
        load_checkpoint(save_original(tmp_path / "a.pyth", original_reference(), cfg=cfg))
    assert not ran.exists()


def test_missing_and_unknown_tensors_are_listed_by_their_own_names(tmp_path: Path) -> None:
    reference = original_reference()
    state = original_state(reference)
    del state["model.blocks.1.norm2.bias"]
    state["model.blocks.0.extra.weight"] = torch.zeros(2)
    state["other"] = torch.zeros(3)
    state["model.blocks.1.mlp.fc2.weight"] = torch.zeros(40, 128)
    torch.save({"model_state": state, "cfg": original_cfg(reference)}, tmp_path / "a.pyth")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "a.pyth")
    for line in (
        "missing: model.blocks.1.norm2.bias (128,)",
        "unknown: model.blocks.0.extra.weight (2,)",
        "unknown: other (3,)",
        "wrong shape: model.blocks.1.mlp.fc2.weight is (40, 128), the config asks for (128, 40)",
    ):
        assert line in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("patch_embed.proj.weight", (128, 48), r"patch_embed\.proj\.weight is of shape \(128, 48\)"),
        ("patch_embed.proj.weight", (128, 3, 0, 0), "patch_embed.proj.weight is of shape"),
        ("patch_embed.proj.weight", (), "patch_embed.proj.weight is of shape"),
        ("pos_embed", (1, 26), "pos_embed is of shape"),
        ("pos_embed", (1, 1, 128), "position embeddings are for 0 patches"),
        ("time_embed", (3, 128), "time_embed is of shape"),
        ("blocks.0.mlp.fc1.weight", (40,), r"blocks\.0\.mlp\.fc1\.weight is of shape"),
        ("head.weight", (7,), "head.weight is of shape"),
        ("blocks.3.norm1.weight", (128,), "lacks the blocks 2 of 0 to 3"),
        ("blocks.99999999999.norm1.weight", (128,), r"unknown: model\.blocks\.99999999999\.norm1"),
    ],
)
def test_shapes_that_tell_no_model(name: str, shape: tuple[int, ...], told: str, tmp_path: Path) -> None:
    reference = original_reference(dtype=torch.float32)
    torch.save(original_state(reference) | {f"model.{name}": torch.zeros(shape)}, tmp_path / "a.pyth")
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint(tmp_path / "a.pyth")


def test_what_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    space_only = save_original(tmp_path / "a.pyth", original_reference(attention_type="space_only"), cfg=None)
    with pytest.raises(CheckpointError, match="give num_frames"):
        load_checkpoint(space_only)
    assert load_checkpoint(space_only, num_frames=5).config.num_frames == 5

    narrow = save_original(tmp_path / "b.pyth", original_reference(hidden_size=24, num_attention_heads=3))
    with pytest.raises(CheckpointError, match="give num_attention_heads"):
        load_checkpoint(narrow)
    assert load_checkpoint(narrow, num_attention_heads=3).config.num_attention_heads == 3

    wide = save_original(tmp_path / "c.pyth", original_reference(), cfg=None)
    state = torch.load(wide)
    state["model_state"]["model.pos_embed"] = torch.ones(1, 13, 128, dtype=torch.float64)
    torch.save(state, wide)
    with pytest.raises(CheckpointError, match=r"give the image_size=\(height, width\)"):
        load_checkpoint(wide)
    assert load_checkpoint(wide, image_size=(12, 16)).config.grid == (3, 4)


@pytest.mark.usefixtures("x64")
def test_heads_can_be_told(tmp_path: Path) -> None:
    reference = original_reference(num_attention_heads=4)
    model, params = load(save_original(tmp_path / "a.pyth", reference), num_attention_heads=4)
    pixel_values = clip(model.config, batch=1)
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    expected = numpy_timesformer.run(tensors, reference.config, pixel_values).logits
    assert_close(run_flax(model, params, pixel_values).logits, expected, TOLERANCE, "logits")


def test_channel_order_of_kinetics_is_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_original(tmp_path / "a.pyth", original_reference(dtype=torch.float32))
    TimesformerForVideoClassification.from_pretrained(path)
    assert not caplog.messages
    processor = processor_for(load_checkpoint(path))
    assert processor == VideoProcessor(
        size=20, crop_size=(20, 20), image_mean=(0.45, 0.44, 0.43), image_std=(0.225, 0.224, 0.223)
    )
    settings = processor.to_dict()
    theirs = transformers.VideoMAEImageProcessor.from_dict(settings).to_dict()
    assert {name: theirs[name] for name in settings} == settings


@pytest.mark.parametrize("dataset", ["ssv2", "howto100m", None])
def test_other_channel_orders_are_asked_for(
    dataset: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = original_reference(dtype=torch.float32)
    told = {"cfg": None} if dataset is None else {"dataset": dataset}
    path = save_original(tmp_path / "a.pyth", reference, **told)
    with pytest.raises(CheckpointError, match='give channel_order="rgb" or "bgr"'):
        processor_for(load_checkpoint(path))
    TimesformerModel.from_pretrained(path)
    message = caplog.messages[-1]
    assert message.startswith(f"{path}: the channel order of its frames is not known")
    assert 'give channel_order="rgb" or "bgr"' in message
    assert dataset is None or dataset in message

    caplog.clear()
    for order in ("rgb", "bgr"):
        TimesformerModel.from_pretrained(path, channel_order=order)
        assert not any("channel order" in message for message in caplog.messages)
        assert processor_for(load_checkpoint(path, channel_order=order)).channel_order == order
    with pytest.raises(ConfigError, match="channel_order must be one of rgb, bgr"):
        load_checkpoint(path, channel_order="grb")  # pyright: ignore[reportArgumentType]


def test_crop_follows_the_image_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    checkpoint = load_checkpoint(save_original(tmp_path / "a.pyth", original_reference()), image_size=(24, 32))
    processor = processor_for(checkpoint)
    assert (processor.crop_size, processor.size) == ((24, 32), 24)
    assert checkpoint.changes.resized == ["timesformer/embeddings/position_embeddings"]


def test_epoch_and_settings_are_all_that_is_kept_of_the_training(tmp_path: Path) -> None:
    from timesformer_jax.checkpoints.weights_file import open_weights_file

    file = open_weights_file(save_original(tmp_path / "a.pyth", original_reference()))
    assert file.wrapper == "model_state"
    assert set(file.notes) == {"cfg", "epoch"}
    assert all(name.startswith("model.") for name in file.tensors)


def test_files_of_old_torch_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They can't be mapped: to map them anew, which keeps memory low with others, would be to read them again."""
    path = save_original(tmp_path / "a.pyth", original_reference())
    expected = load_checkpoint(path)
    torch.save(torch.load(path), tmp_path / "old.pyth", _use_new_zipfile_serialization=False)
    loads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: loads.append(options["mmap"]) or load(*args, **options))
    monkeypatch.setattr(_MappedState, "most_mapped", 0)
    checkpoint = load_checkpoint(tmp_path / "old.pyth")
    assert loads == [True, False], "tried to map it, then read it"
    for name, leaf in flat_names(checkpoint.params).items():
        np.testing.assert_array_equal(leaf, flat_names(expected.params)[name], err_msg=name)


def test_files_that_are_neither(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3, 2), "fc.bias": torch.zeros(4)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"is no TimeSformer and no ViT: its tensors are called conv1\.weight"):
        load_checkpoint(tmp_path / "resnet.pth")
    state = original_state(original_reference(), "")
    torch.save({f"{net}.{name}": t for net in ("student", "teacher") for name, t in state.items()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"holds 2 models, under 'student\.', 'teacher\.'"):
        load_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "b.pyth")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint("models/TimeSformer_divST_8x32_224_K400.pyth")


def test_half_precision_is_kept(tmp_path: Path) -> None:
    path = save_original(tmp_path / "a.pyth", original_reference(dtype=torch.bfloat16))
    _, params = TimesformerForVideoClassification.from_pretrained(path)
    assert {leaf.dtype for leaf in flat_names(params).values()} == {jnp.dtype("bfloat16")}
