"""`timesformer summary`: the paper's own figures, and counts worked out by hand."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_flax import tiny_flax

from timesformer_jax import TimesformerConfig
from timesformer_jax.cli import main
from timesformer_jax.errors import ConfigError
from timesformer_jax.model.summary import summarize


def by_hand(config: TimesformerConfig, frames: int, patches: int) -> int:
    """Multiply-adds from the equations of the paper."""
    d, mlp, tokens, grid = config.hidden_size, config.intermediate_size, patches * frames, config.grid
    embedding = tokens * d * np.prod(config.patch_shape) * config.num_channels
    match config.attention_type:
        case "divided_space_time":
            temporal = tokens * (4 * d * d + 2 * frames * d) + tokens * d * d
            spatial = frames * (1 + patches) * (4 * d * d + 2 * (1 + patches) * d)
            layer = temporal + spatial + (1 + tokens) * 2 * d * mlp
        case "joint_space_time":
            layer = (1 + tokens) * (4 * d * d + 2 * (1 + tokens) * d + 2 * d * mlp)
        case "axial":
            temporal = tokens * (4 * d * d + 2 * frames * d) + tokens * d * d
            rows, columns = grid
            width = (1 + tokens) * 5 * d * d + frames * rows * 2 * (1 + columns) ** 2 * d
            height = (1 + tokens) * 4 * d * d + frames * columns * 2 * (1 + rows) ** 2 * d
            layer = temporal + width + height + (1 + tokens) * 2 * d * mlp
        case "sparse_local_global":
            assert grid == (14, 14)
            # Blocks of 4, 3, 3 and 4 rows see the rectangles that their windows of 7 lie in: 7, 9, 9 and 7 rows.
            pairs = (4 * 7 + 3 * 9 + 3 * 9 + 4 * 7) ** 2
            local = tokens * 5 * d * d + frames * frames * pairs * 2 * d
            lattice = (1 + tokens) * 4 * d * d + 8 * 2 * (1 + tokens // 8) ** 2 * d
            layer = local + lattice + (1 + tokens) * 2 * d * mlp
        case "space_only":
            layer = frames * (1 + patches) * (4 * d * d + 2 * (1 + patches) * d + 2 * d * mlp)
    return int(embedding) + config.num_hidden_layers * layer + d * config.num_labels


def saved(config: TimesformerConfig, frames: int) -> int:
    """Of these: the clip's CLS has its queries, keys and values projected once, and not once for each frame's copy."""
    copies = frames - 1 if config.attention_type == "divided_space_time" else 0
    return config.num_hidden_layers * copies * 3 * config.hidden_size**2


@pytest.mark.parametrize(("preset", "teras"), [("base-k400", "0.59"), ("hr-k400", "5.11"), ("large-k400", "7.14")])
def test_the_papers_multiply_adds_for_three_views(preset: str, teras: str) -> None:
    config = TimesformerConfig.preset(preset)
    summary = summarize(config)
    rows, columns = config.grid
    in_the_paper = by_hand(config, config.num_frames, rows * columns)
    assert f"{3 * in_the_paper / 1e12:.2f}" == teras
    assert summary.multiply_adds == in_the_paper - saved(config, config.num_frames)


@pytest.mark.parametrize(
    ("attention_type", "parameters"),
    [
        ("divided_space_time", 121_566_352),
        ("joint_space_time", 86_112_400),
        ("space_only", 86_106_256),
        ("sparse_local_global", 121_566_352),
        ("axial", 157_020_304),
    ],
)
def test_parameters_of_the_published_models(attention_type: str, parameters: int) -> None:
    config = TimesformerConfig.preset("base-k400", attention_type=attention_type)
    summary = summarize(config)
    assert summary.parameters == parameters
    assert summary.multiply_adds == by_hand(config, 8, 196) - saved(config, 8)


def test_other_clips_and_the_bare_encoder() -> None:
    model, params = tiny_flax("divided_space_time", dtype=np.float32)
    with_head = summarize(model.config, num_frames=5, size=(12, 8))
    assert with_head.multiply_adds == by_hand(model.config, 5, 6) - saved(model.config, 5)
    assert with_head.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    bare = summarize(model.config, num_frames=5, size=(12, 8), head=False)
    assert with_head.multiply_adds - bare.multiply_adds == 24 * 7
    assert with_head.parameters - bare.parameters == 24 * 7 + 7
    parts = {part.name: part for part in with_head.parts}
    assert parts["timesformer.encoder.layers.attention.qkv"].shape == (1, 6, 5, 3, 3, 8)
    assert parts["timesformer.encoder.layers.attention.qkv"].parameters == 2 * (24 * 72 + 72)
    assert parts["timesformer.encoder.layers.temporal_attention"].multiply_adds == 2 * 6 * 2 * 5 * 5 * 24
    with pytest.raises(ConfigError, match="height 13"):
        summarize(model.config, size=(13, 8))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, params = tiny_flax("divided_space_time", dtype=np.float32)
    model.save_pretrained(tmp_path, params)
    assert main(["summary", str(tmp_path), "--views", "2"]) == 0
    printed = capsys.readouterr().out
    expected = summarize(model.config)
    assert f"{expected.parameters:,}" in printed
    assert f"{expected.multiply_adds:,}" in printed
    assert "for 2 views" in printed
    assert main(["summary", str(tmp_path / "config.json"), "--json", "--frames", "4", "--config.num-labels", "0"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["input_shape"] == [1, 4, 8, 16, 3]
    assert values["multiply_adds"] == by_hand(model.config.replace(num_labels=0), 4, 8) - saved(model.config, 4)
    assert sum(part["parameters"] for part in values["parts"]) == values["parameters"]

    for arguments, reason in (
        (["nothing"], "none of the presets base-k400"),
        ([str(tmp_path), "--size", "9", "16"], "height 9"),
        ([str(tmp_path), "--frames", "0"], "1 or more"),
    ):
        assert main(["summary", *arguments]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
