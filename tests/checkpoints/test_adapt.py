"""Fine-tuning loads: what changes, what it is called, and that nothing else does."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch import torch
from pytorch_checkpoints import original_reference, save_original
from reference import ATTENTION_TYPES, TINY, assert_close, clip, run_flax, tiny_reference, to_flax

from timesformer_jax import TimesformerForVideoClassification, TimesformerModel
from timesformer_jax.checkpoints.mapping import flat_names
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.errors import CheckpointError, ConfigError

PLACE = "timesformer/embeddings/position_embeddings"
TIME = "timesformer/embeddings/time_embeddings"
HEAD = ["classifier/kernel", "classifier/bias"]
TEMPORAL = {
    f"timesformer/encoder/layers/{name}"
    for name in (
        *("temporal_attention/qkv/kernel", "temporal_attention/qkv/bias", "temporal_attention/output/kernel"),
        *("temporal_attention/output/bias", "temporal_layernorm/scale", "temporal_layernorm/bias"),
        *("temporal_dense/kernel", "temporal_dense/bias"),
    )
}


LOCAL, WIDTH = ({name.replace("temporal", kind) for name in TEMPORAL} for kind in ("local", "width"))


@pytest.fixture(scope="module", params=["transformers", "original"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each attention type, in both layouts."""
    directory, paths = tmp_path_factory.mktemp("saved"), {}
    for attention_type in ATTENTION_TYPES:
        paths[attention_type] = directory / attention_type
        if request.param == "original":
            reference = original_reference(attention_type=attention_type, dtype=torch.float32)
            save_original(paths[attention_type], reference)
        else:
            tiny_reference(attention_type=attention_type, dtype=torch.float32).save_pretrained(paths[attention_type])
    return paths


def assert_equal_but(names: set[str], actual: Any, expected: Any) -> None:
    actual, expected = flat_names(actual), flat_names(expected)
    for name in actual.keys() - names:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def test_nothing_changes_unasked(saved: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    for path in saved.values():
        checkpoint = load_checkpoint(path)
        assert not str(checkpoint.changes)
    assert not caplog.messages


def test_other_number_of_classes(saved: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    path = saved["divided_space_time"]
    checkpoint, before = load_checkpoint(path, num_labels=5), load_checkpoint(path)
    assert checkpoint.changes.new == HEAD
    assert checkpoint.changes.dropped == checkpoint.changes.resized == []
    assert_equal_but(set(HEAD), checkpoint.params, before.params)
    assert not checkpoint.params["classifier"]["bias"].any()
    kernel = checkpoint.params["classifier"]["kernel"]
    assert kernel.shape == (before.params["classifier"]["kernel"].shape[0], 5)
    # Of initializer_range 0.02: the deviation of at least 120 draws is within a quarter of that.
    assert 0.015 < kernel.std() < 0.025
    assert checkpoint.config.id2label[4] == "LABEL_4"
    [message] = caplog.messages
    assert message == f"{path}: new, to be trained: classifier/kernel, classifier/bias"
    again = load_checkpoint(path, num_labels=5).params["classifier"]["kernel"]
    np.testing.assert_array_equal(kernel, again)


def test_other_number_of_frames(saved: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    path = saved["joint_space_time"]
    checkpoint, before = load_checkpoint(path, num_frames=8), load_checkpoint(path)
    assert (checkpoint.changes.new, checkpoint.changes.resized, checkpoint.changes.dropped) == ([], [TIME], [])
    assert_equal_but({TIME}, checkpoint.params, before.params)
    old = before.params["timesformer"]["embeddings"]["time_embeddings"]
    new = torch.nn.functional.interpolate(torch.from_numpy(old.T.copy())[None], size=8, mode="nearest")[0].T
    np.testing.assert_array_equal(checkpoint.params["timesformer"]["embeddings"]["time_embeddings"], new.numpy())
    assert caplog.messages == [f"{path}: resized: {TIME}"]


@pytest.mark.parametrize("resize", [None, "nearest", "bicubic"])
@pytest.mark.parametrize("size", [28, (12, 40)])
def test_other_image_size(resize: Any, size: Any, saved: dict[str, Path]) -> None:
    path = saved["divided_space_time"]
    checkpoint, before = load_checkpoint(path, image_size=size, resize=resize), load_checkpoint(path)
    assert (checkpoint.changes.new, checkpoint.changes.resized, checkpoint.changes.dropped) == ([], [PLACE], [])
    assert_equal_but({PLACE}, checkpoint.params, before.params)
    old = torch.from_numpy(before.params["timesformer"]["embeddings"]["position_embeddings"]).double()
    grid = old[1:].T.reshape(1, -1, *before.config.grid)
    options: dict[str, Any] = (
        {"mode": "bicubic", "align_corners": False} if resize == "bicubic" else {"mode": "nearest"}
    )
    new = torch.nn.functional.interpolate(grid, size=checkpoint.config.grid, **options)[0].flatten(1).T
    actual = checkpoint.params["timesformer"]["embeddings"]["position_embeddings"]
    # float32 rounds once, at the end.
    assert_close(actual, torch.cat([old[:1], new]), 1e-7 if resize == "bicubic" else 0.0, "position embeddings")


def test_other_grid_of_as_many_patches(tmp_path: Path) -> None:
    """4 x 4 and 2 x 8 patches: the shape is the same, the places are not."""
    path = save_original(tmp_path / "a.pyth", original_reference(image_size=16, dtype=torch.float32))
    checkpoint, before = load_checkpoint(path, image_size=(8, 32)), load_checkpoint(path)
    assert checkpoint.changes.resized == [PLACE]
    old, new = (c.params["timesformer"]["embeddings"]["position_embeddings"][1:] for c in (before, checkpoint))
    np.testing.assert_array_equal(new.reshape(2, 8, -1), old.reshape(4, 4, -1)[::2].repeat(2, axis=1))


CHANGES = {
    ("divided_space_time", "space_only"): (set(), TEMPORAL | {TIME}),
    ("divided_space_time", "joint_space_time"): (set(), TEMPORAL),
    ("joint_space_time", "divided_space_time"): (TEMPORAL, set()),
    ("joint_space_time", "space_only"): (set(), {TIME}),
    ("space_only", "divided_space_time"): (TEMPORAL | {TIME}, set()),
    ("space_only", "joint_space_time"): ({TIME}, set()),
    ("divided_space_time", "sparse_local_global"): (LOCAL, TEMPORAL),
    ("divided_space_time", "axial"): (WIDTH, set()),
    ("space_only", "axial"): (TEMPORAL | WIDTH | {TIME}, set()),
}


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_other_attention_type(
    before: str, after: Any, saved: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = load_checkpoint(saved[before], attention_type=after)
    new, dropped = CHANGES[before, after]
    assert set(checkpoint.changes.new) == new
    assert set(checkpoint.changes.dropped) == dropped
    assert checkpoint.changes.resized == []
    [message] = caplog.messages
    assert all(name in message for name in new | dropped)
    old = load_checkpoint(saved[before])
    assert_equal_but(new, checkpoint.params, old.params)
    params = flat_names(checkpoint.params)
    for name in new:
        if "_dense" in name or name == TIME:
            assert not params[name].any(), name
        else:
            twin = re.sub("(temporal|local|width)_attention", "attention", name)
            twin = re.sub("(temporal|local|width)_layernorm", "layernorm_before", twin)
            np.testing.assert_array_equal(params[name], params[twin], err_msg=name)


@pytest.mark.usefixtures("x64")
def test_divided_starts_where_space_only_was() -> None:
    """On a still clip the new temporal attention and time embeddings change nothing."""
    reference = tiny_reference(attention_type="space_only")
    pixel_values = clip(reference.config)
    pixel_values[:] = pixel_values[:, :1]
    before = run_flax(*to_flax(reference), pixel_values).logits
    after = run_flax(*to_flax(reference, attention_type="divided_space_time"), pixel_values).logits
    # Rounding alone, of the mean over frames above all.
    assert_close(after, before, 1e-12, "logits")


@pytest.mark.usefixtures("x64")
def test_a_still_clip_in_the_other_schemes() -> None:
    """From an image model: axial attention gives the same for any number of frames, sparse local-global for two.

    (Of more frames, half are in each group of the lattice, and CLS is there once.)
    """
    reference = tiny_reference(attention_type="space_only")
    picture = clip(reference.config)[:, :1]
    for kind, frames in (("axial", 5), ("sparse_local_global", 2)):
        model, params = to_flax(reference, attention_type=kind)
        one, several = (run_flax(model, params, picture.repeat(count, axis=1)) for count in (1, frames))
        assert_close(several.logits, one.logits, 1e-12, "logits")  # rounding alone
        patches = several.hidden_states[-1][:, 1:].reshape(len(picture), -1, frames, 24)
        still = np.repeat(one.hidden_states[-1][:, 1:, None], frames, axis=2)
        assert_close(patches, still, 1e-12, "patches")


def test_other_embeddings_and_orders(saved: dict[str, Path]) -> None:
    path = saved["divided_space_time"]
    changes = load_checkpoint(path, position_embedding_type="space", attention_order="parallel").changes
    assert (changes.new, changes.resized, changes.dropped) == ([], [], [TIME])
    changes = load_checkpoint(path, position_embedding_type="none").changes
    assert (changes.new, changes.resized, set(changes.dropped)) == ([], [], {TIME, PLACE})


def test_head_on_and_off(tmp_path: Path) -> None:
    tiny_reference(dtype=torch.float32).save_pretrained(tmp_path / "classifier")
    tiny_reference(dtype=torch.float32, head=False).save_pretrained(tmp_path / "bare")
    checkpoint = load_checkpoint(tmp_path / "classifier", head=False)
    assert checkpoint.changes.dropped == HEAD
    assert "timesformer" not in checkpoint.params
    checkpoint = load_checkpoint(tmp_path / "bare", head=True, num_labels=4)
    assert checkpoint.changes.new == HEAD
    _, params = TimesformerModel.from_pretrained(tmp_path / "classifier")
    assert "encoder" in params
    _, params = TimesformerForVideoClassification.from_pretrained(tmp_path / "bare", num_labels=4)
    assert params["classifier"]["kernel"].shape == (24, 4)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ({"hidden_size": 48}, r"is .*24.* in the checkpoint and .*48.* in the model"),
        ({"num_hidden_layers": 3}, r"\(2, .* in the checkpoint and \(3, "),
        ({"intermediate_size": 48}, "intermediate/kernel"),
        ({"num_attention_heads": 4}, "qkv/kernel"),
        ({"patch_size": 6}, "embeddings"),
        ({"num_channels": 1}, "patch_embeddings/kernel"),
    ],
)
def test_what_can_not_change(override: dict[str, Any], told: str, tmp_path: Path) -> None:
    tiny_reference(dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=told) as error:
        load_checkpoint(tmp_path, **override)
    assert "only num_labels, num_frames, image_size and attention_type may change" in str(error.value)


def test_impossible_overrides(tmp_path: Path) -> None:
    tiny_reference(dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="has no field heads"):
        load_checkpoint(tmp_path, heads=3)
    with pytest.raises(ConfigError, match="image_size"):
        load_checkpoint(tmp_path, image_size=TINY["patch_size"] + 1)


def test_half_precision_stays(tmp_path: Path) -> None:
    """What is new or resized has the type of the file."""
    tiny_reference(dtype=torch.bfloat16, attention_type="space_only").save_pretrained(tmp_path)
    checkpoint = load_checkpoint(
        tmp_path, num_labels=3, image_size=20, resize="bicubic", attention_type="divided_space_time"
    )
    assert {leaf.dtype.name for leaf in flat_names(checkpoint.params).values()} == {"bfloat16"}
