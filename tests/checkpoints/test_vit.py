"""ImageNet start: at step zero a still clip gives what the ViT gives for its picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch import save_file, torch, transformers
from pytorch_checkpoints import timm_state, tiny_vit
from reference import assert_close, run_flax

from timesformer_jax import TimesformerForVideoClassification, TimesformerModel, VideoProcessor
from timesformer_jax.checkpoints.mapping import flat_names
from timesformer_jax.checkpoints.open import load_checkpoint, processor_for
from timesformer_jax.errors import CheckpointError, ConfigError
from timesformer_jax.position_embeddings import resize_bicubic

# Rounding alone: float64 carries 1e-16, and a few layers of sums of some dozen terms lose a digit or two of it.
TOLERANCE = 1e-12

STILL_TYPES = ("divided_space_time", "space_only")
FRAMES = 3


def picture(size: int | tuple[int, int] = 20) -> np.ndarray:
    height, width = (size, size) if isinstance(size, int) else size
    return np.random.default_rng(0).normal(size=(2, height, width, 3))


def still(pictures: np.ndarray) -> np.ndarray:
    return np.repeat(pictures[:, None], FRAMES, axis=1)


def to_torch(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))


def assert_still(tokens: np.ndarray, expected: np.ndarray, attention_type: str) -> None:
    """Compares last hidden states: the patches of each frame, where the model keeps them, are the picture's."""
    assert expected.std() > 0.5, "features must vary to show anything"
    tokens, frames = np.asarray(tokens), FRAMES if attention_type == "divided_space_time" else 1
    assert_close(tokens[:, 0], expected[:, 0], TOLERANCE, "CLS")
    patches = tokens[:, 1:].reshape(len(tokens), -1, frames, tokens.shape[-1])
    assert_close(patches, np.repeat(expected[:, 1:, None], frames, axis=2), TOLERANCE, "patches")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("attention_type", STILL_TYPES)
@pytest.mark.parametrize(
    "settings", [{}, {"qkv_bias": False, "hidden_act": "quick_gelu", "patch_size": [4, 5]}], ids=["usual", "unusual"]
)
def test_still_clip_equals_transformers_vit(attention_type: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Its epsilon is 1e-12: with the TimeSformer's 1e-6 these would differ by more."""
    vit = tiny_vit(**settings)
    vit.save_pretrained(tmp_path)
    model, params = TimesformerModel.from_pretrained(tmp_path, attention_type=attention_type, dtype="float64")
    with torch.no_grad():
        expected = vit(to_torch(picture())).last_hidden_state.numpy()
    assert_still(run_flax(model, params, still(picture())).last_hidden_state, expected, attention_type)


@pytest.mark.usefixtures("x64")
def test_classifier_is_kept_when_no_classes_are_given(tmp_path: Path) -> None:
    vit = tiny_vit(head=True, id2label={i: f"thing {i}" for i in range(11)})
    vit.save_pretrained(tmp_path)
    model, params = TimesformerForVideoClassification.from_pretrained(tmp_path, dtype="float64")
    assert model.config.id2label[3] == "thing 3"
    with torch.no_grad():
        expected = vit(to_torch(picture())).logits
    assert_close(run_flax(model, params, still(picture())).logits, expected, TOLERANCE, "logits")


def timm_features(state: dict[str, torch.Tensor], pictures: torch.Tensor, heads: int) -> torch.Tensor:
    """A ViT once more, with the epsilon of timm's, from its tensors' names."""
    functional, width = torch.nn.functional, state["cls_token"].shape[-1]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    kernel = state["patch_embed.proj.weight"]
    x = functional.conv2d(pictures, kernel, state["patch_embed.proj.bias"], stride=kernel.shape[-1])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + state["pos_embed"]
    for block in ("blocks.0", "blocks.1"):
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x))
        query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + linear(f"{block}.attn.proj", attended.transpose(1, 2).flatten(2))
        hidden = functional.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + linear(f"{block}.mlp.fc2", hidden)
    return norm("norm", x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("attention_type", STILL_TYPES)
@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [(None, ""), ("model", ""), ("state_dict", "module."), (None, "backbone."), ("safetensors", "")],
)
def test_still_clip_equals_timm(attention_type: str, wrapper: str | None, prefix: str, tmp_path: Path) -> None:
    """Width 128, so that heads of 64 are found without being told."""
    vit = tiny_vit(head=True, hidden_size=128, num_attention_heads=2)
    state = timm_state(vit)
    named = {prefix + name: tensor for name, tensor in state.items()}
    path = tmp_path / ("vit.safetensors" if wrapper == "safetensors" else "vit.pth")
    if wrapper == "safetensors":
        save_file(named, path)
    else:
        torch.save({wrapper: named, "epoch": 3} if wrapper else named, path)
    model, params = TimesformerModel.from_pretrained(path, attention_type=attention_type, dtype="float64")
    expected = timm_features(state, to_torch(picture()), heads=2).numpy()
    assert_still(run_flax(model, params, still(picture())).last_hidden_state, expected, attention_type)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", [None, "channels_first", "channels_last"])
def test_linear_patch_embedding(order: Any, tmp_path: Path) -> None:
    """The same ViT with its convolution written as a linear layer, both ways; timm's own way need not be told."""
    vit = tiny_vit()
    state = timm_state(vit)
    kernel = state["patch_embed.proj.weight"]
    flat = kernel.permute(0, 2, 3, 1) if order == "channels_last" else kernel
    torch.save(state | {"patch_embed.proj.weight": flat.flatten(1)}, tmp_path / "vit.pth")
    model, params = TimesformerModel.from_pretrained(
        tmp_path / "vit.pth", num_attention_heads=3, patch_order=order, dtype="float64"
    )
    expected = timm_features(state, to_torch(picture()), heads=3).numpy()
    assert_still(run_flax(model, params, still(picture())).last_hidden_state, expected, "divided_space_time")


def test_linear_patch_embedding_in_transformers_layout_has_to_be_told(tmp_path: Path) -> None:
    vit = tiny_vit(dtype=torch.float32)
    vit.config.save_pretrained(tmp_path)
    kernel = vit.state_dict()["embeddings.patch_embeddings.projection.weight"]
    linear = {"embeddings.patch_embeddings.projection.weight": kernel.permute(0, 2, 3, 1).flatten(1).contiguous()}
    save_file(vit.state_dict() | linear, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="give patch_order="):
        load_checkpoint(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"of 48 inputs, which no square patch of 4 channels has; give patch_size"
    ):
        load_checkpoint(tmp_path, patch_order="channels_last", num_channels=4)
    with pytest.raises(ConfigError, match="patch_order must be one of channels_first, channels_last"):
        load_checkpoint(tmp_path, patch_order="hwc")  # pyright: ignore[reportArgumentType]
    params = load_checkpoint(tmp_path, patch_order="channels_last").params
    np.testing.assert_array_equal(
        params["embeddings"]["patch_embeddings"]["kernel"], kernel.permute(2, 3, 1, 0).numpy()
    )


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time", "space_only"])
def test_what_is_new_is_announced(attention_type: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_vit(head=True).save_pretrained(tmp_path)
    checkpoint = load_checkpoint(tmp_path, attention_type=attention_type, num_frames=5, num_labels=11)
    new = {"classifier/kernel", "classifier/bias"}
    if attention_type != "space_only":
        new |= {"timesformer/embeddings/time_embeddings"}
    layers = flat_names(checkpoint.params["timesformer"]["encoder"]["layers"])
    temporal = {f"timesformer/encoder/layers/{name}" for name in layers if name.startswith("temporal_")}
    assert len(temporal) == (8 if attention_type == "divided_space_time" else 0)
    assert set(checkpoint.changes.new) == new | temporal
    assert checkpoint.changes.dropped == ["classifier.bias", "classifier.weight"]
    assert checkpoint.changes.resized == []
    assert f"a ViT, made a {attention_type} TimeSformer" in caplog.messages[0]
    assert all(name in caplog.messages[1] for name in (*new, *temporal, "dropped: classifier.bias, classifier.weight"))
    assert checkpoint.config.num_frames == 5


def test_temporal_attention_starts_as_the_paper_says(tmp_path: Path) -> None:
    tiny_vit().save_pretrained(tmp_path)
    params = load_checkpoint(tmp_path).params
    assert not params["embeddings"]["time_embeddings"].any()
    layers = params["encoder"]["layers"]
    assert not any(leaf.any() for leaf in layers["temporal_dense"].values())
    for temporal, spatial in (("temporal_attention", "attention"), ("temporal_layernorm", "layernorm_before")):
        for name, leaf in flat_names(layers[temporal]).items():
            assert leaf.any()
            np.testing.assert_array_equal(leaf, flat_names(layers[spatial])[name], err_msg=name)
            assert not np.shares_memory(leaf, flat_names(layers[spatial])[name])


def test_classes_of_videos_are_never_those_of_imagenet(tmp_path: Path) -> None:
    """Not even when there are as many: a new classifier, and no names of things on it."""
    vit = tiny_vit(head=True, id2label={i: f"thing {i}" for i in range(11)})
    vit.save_pretrained(tmp_path / "vit")
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"action {i}\n" for i in range(11)))
    for options, name in (({"num_labels": 11}, "LABEL_3"), ({"labels": labels}, "action 3")):
        checkpoint = load_checkpoint(tmp_path / "vit", head=True, **options)
        assert checkpoint.config.id2label[3] == name
        kernel = checkpoint.params["classifier"]["kernel"]
        assert np.abs(kernel - vit.classifier.weight.detach().numpy().T).max() > 0.1
        assert not checkpoint.params["classifier"]["bias"].any()


def test_number_of_classes_is_asked_for(tmp_path: Path) -> None:
    tiny_vit().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is a ViT without a classifier; give num_labels"):
        load_checkpoint(tmp_path, head=True)
    checkpoint = load_checkpoint(tmp_path)
    assert "classifier" not in checkpoint.params
    assert checkpoint.changes.dropped == ["pooler.dense.bias", "pooler.dense.weight"]
    assert load_checkpoint(tmp_path, num_labels=4).params["classifier"]["kernel"].shape == (24, 4)


SIZES = [
    ((5, 5), (5, 5)),
    ((5, 5), (7, 3)),
    ((14, 14), (28, 28)),
    ((14, 14), (7, 7)),
    ((3, 7), (8, 2)),
    ((1, 2), (4, 3)),
]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_bicubic_equals_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    embedding = np.random.default_rng(0).normal(size=(source[0] * source[1], 6))
    grid = torch.from_numpy(embedding).T.reshape(1, 6, *source)
    expected = torch.nn.functional.interpolate(grid, size=target, mode="bicubic", align_corners=False)
    actual = resize_bicubic(embedding, source, target)
    # Both round at 1e-16; sixteen products of weights below 2 are summed.
    assert_close(actual, expected[0].flatten(1).T, 1e-14, "embeddings")
    half = resize_bicubic(embedding.astype(np.float16), source, target)
    assert half.dtype == np.float16


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [28, (12, 32)])
def test_other_image_size_equals_transformers(size: Any, tmp_path: Path) -> None:
    vit = tiny_vit()
    vit.save_pretrained(tmp_path)
    model, params = TimesformerModel.from_pretrained(tmp_path, image_size=size, dtype="float64")
    with torch.no_grad():
        expected = vit(to_torch(picture(size)), interpolate_pos_encoding=True).last_hidden_state.numpy()
    tokens = run_flax(model, params, still(picture(size))).last_hidden_state
    assert_still(tokens, expected, "divided_space_time")


def test_nearest_on_request(tmp_path: Path) -> None:
    vit = tiny_vit(dtype=torch.float32)
    vit.save_pretrained(tmp_path)
    checkpoint = load_checkpoint(tmp_path, image_size=28, resize="nearest")
    grid = vit.embeddings.position_embeddings[0, 1:].T.reshape(1, 24, 5, 5)
    expected = torch.nn.functional.interpolate(grid, size=(7, 7), mode="nearest")[0].flatten(1).T
    embeddings = checkpoint.params["embeddings"]["position_embeddings"]
    np.testing.assert_array_equal(embeddings[1:], expected.detach().numpy())
    assert checkpoint.changes.resized == ["embeddings/position_embeddings"]
    with pytest.raises(ConfigError, match="resize must be one of nearest, bicubic"):
        load_checkpoint(tmp_path, resize="bilinear")  # pyright: ignore[reportArgumentType]


def test_layers_behind_the_features_are_dropped_and_announced(tmp_path: Path) -> None:
    state = timm_state(tiny_vit(dtype=torch.float32))
    extra = {"pre_logits.fc.weight": torch.ones(24, 24), "pre_logits.fc.bias": torch.ones(24)}
    head = {"head.weight": torch.ones(11, 24), "head.bias": torch.ones(11)}
    torch.save({f"net.{name}": t for name, t in (state | extra | head).items()}, tmp_path / "vit.pth")
    checkpoint = load_checkpoint(tmp_path / "vit.pth", num_attention_heads=3, num_labels=4)
    assert checkpoint.changes.dropped == [f"net.{name}" for name in (*sorted(extra), *sorted(head))]


@pytest.mark.parametrize("layout", ["timm", "transformers"])
def test_distilled_vits_are_refused(layout: str, tmp_path: Path) -> None:
    vit = tiny_vit(dtype=torch.float32)
    if layout == "timm":
        torch.save(timm_state(vit) | {"dist_token": torch.ones(1, 1, 24)}, tmp_path / "pytorch_model.bin")
    else:
        vit.config.save_pretrained(tmp_path)
        torch.save(
            vit.state_dict() | {"embeddings.distillation_token": torch.ones(1, 1, 24)}, tmp_path / "pytorch_model.bin"
        )
    with pytest.raises(CheckpointError, match="is a distilled ViT"):
        load_checkpoint(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize(
    "lost", ["encoder.layer.1.attention.attention.key.bias", "encoder.layer.0.output.dense.weight"]
)
def test_lost_tensors_are_named(lost: str, tmp_path: Path) -> None:
    vit = tiny_vit(dtype=torch.float32)
    vit.config.save_pretrained(tmp_path)
    state = dict(vit.state_dict())
    del state[lost]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=rf"{lost.replace('.', '[.]')}"):
        load_checkpoint(tmp_path)


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    state = timm_state(tiny_vit(dtype=torch.float32)) | {"blocks.0.ls1.gamma": torch.ones(24)}
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"unknown: blocks\.0\.ls1\.gamma \(24,\)"):
        load_checkpoint(tmp_path / "vit.pth", num_attention_heads=3)


def test_preprocessing_is_the_vits(tmp_path: Path) -> None:
    tiny_vit().save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    assert processor_for(load_checkpoint(tmp_path)) == VideoProcessor(
        size=20, crop_size=(20, 20), image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.5, 0.5)
    )


@pytest.mark.usefixtures("x64")
def test_start_goes_on_in_transformers(tmp_path: Path) -> None:
    """The saved start is a TimeSformer that Transformers loads, and computes there what the ViT did."""
    vit = tiny_vit()
    vit.save_pretrained(tmp_path / "vit")
    model, params = TimesformerModel.from_pretrained(tmp_path / "vit", num_frames=FRAMES, dtype="float64")
    model.save_pretrained(tmp_path / "start", params)
    start, info = transformers.TimesformerModel.from_pretrained(
        tmp_path / "start", output_loading_info=True, torch_dtype=torch.float64
    )
    assert not any(info.values()), info
    clips = torch.stack([to_torch(picture())] * FRAMES, dim=1)
    with torch.no_grad():
        tokens = start.eval()(clips).last_hidden_state.numpy()
        expected = vit(to_torch(picture())).last_hidden_state.numpy()
    assert_still(tokens, expected, "divided_space_time")
