"""Reports on checkpoints: what they are, what would fail, and that no weights are read for it."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch import save_file, torch
from pytorch_checkpoints import original_cfg, original_reference, original_state, save_original, timm_state, tiny_vit
from reference import ATTENTION_TYPES, tiny_reference

from timesformer_jax import TimesformerConfig
from timesformer_jax.checkpoints.inspection import Report, inspect_checkpoint
from timesformer_jax.checkpoints.mapping import mapping_table
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.checkpoints.orbax_directory import save_params
from timesformer_jax.errors import CheckpointError


def save_converted(directory: Path, source: Path) -> Path:
    checkpoint = load_checkpoint(source)
    directory.mkdir()
    checkpoint.config.save_json_file(directory / "config.json")
    save_params(directory, checkpoint.params)
    return directory


def sound(report: Report) -> str:
    assert report.problems == ()
    text = str(report)
    assert "loading would fail" not in text
    return text


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_kinds(attention_type: str, tmp_path: Path) -> None:
    reference = original_reference(attention_type=attention_type, dtype=torch.float32)
    reference.save_pretrained(tmp_path / "hf")
    original = save_original(tmp_path / "file", reference)
    converted = save_converted(tmp_path / "flax", original)
    for path, kind in (
        (tmp_path / "hf", "TimeSformer in the format of Transformers"),
        (original, "TimeSformer in the format of the original repository"),
        (converted, "TimeSformer in a converted directory (Orbax)"),
    ):
        report = inspect_checkpoint(path)
        text = sound(report)
        assert report.kind == kind
        assert report.num_parameters == sum(tensor.numel() for tensor in reference.state_dict().values())
        assert report.dtypes == ("float32",)
        assert report.num_bytes > 4 * report.num_parameters
        assert report.config == load_checkpoint(path).config
        for line in (
            f"attention      {attention_type}",
            "pixels         20 x 20, 5 x 5 patches of 4 x 4",
            "layers         2 of width 128, 2 heads of 64, MLP of width 40",
            "classes        7 (names not known)",
            f"parameters     {report.num_parameters:,} in {len(report.tensors)} tensors, float32",
        ):
            assert line in text
    text = str(inspect_checkpoint(original))
    assert "frames         3 (every 32 frames of a video of 30 a second)" in text
    assert "training       saved after epoch 14" in text
    assert "mean 0.45, 0.44, 0.43, standard deviation 0.225, 0.224, 0.223; rgb frames" in text


@pytest.mark.parametrize("layout", ["transformers", "timm"])
def test_vit(layout: str, tmp_path: Path) -> None:
    vit = tiny_vit(head=True, hidden_size=128, num_attention_heads=2, id2label={i: f"thing {i}" for i in range(11)})
    path = tmp_path / "vit"
    if layout == "transformers":
        vit.save_pretrained(path)
    else:
        torch.save(timm_state(vit), path)
    report = inspect_checkpoint(path)
    text = sound(report)
    assert report.kind == "ViT, from which the training of a TimeSformer can start"
    assert "attention  " not in text
    named = "thing 0, thing 1, thing 2, ..." if layout == "transformers" else "names not known"
    assert f"classes        11 ({named})" in text


def test_tree(tmp_path: Path) -> None:
    """Layers that look the same are one; one that does not stands by itself."""
    reference = original_reference(num_hidden_layers=12, dtype=torch.float32)
    reference.save_pretrained(tmp_path / "hf")
    text = str(inspect_checkpoint(tmp_path / "hf"))
    assert "    encoder.layer.0..11\n" in text
    assert text.count("temporal_dense") == 1
    assert "(384, 128) float32" in text

    state = original_state(reference)
    state["model.blocks.5.norm1.bias"] = state["model.blocks.5.norm1.bias"].double()
    torch.save({"model_state": state, "cfg": original_cfg(reference)}, tmp_path / "a.pyth")
    text = sound(inspect_checkpoint(tmp_path / "a.pyth"))
    assert [line.strip() for line in text.splitlines() if line.strip()[:1].isdecimal()] == ["0..4", "5", "6..11"]
    assert "float32, float64" in text


def write_sparse(directory: Path, config: TimesformerConfig) -> Path:
    """A Transformers directory of this model, its weights a hole in the file."""
    directory.mkdir()
    config.save_json_file(directory / "config.json")
    header, end = {}, 0
    for entry in mapping_table(config):
        for name in entry.names:
            start, end = end, end + 4 * int(np.prod(entry.torch_shape))
            header[name] = {"dtype": "F32", "shape": entry.torch_shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return directory


def test_no_weights_are_read(tmp_path: Path) -> None:
    directory = write_sparse(tmp_path / "base", TimesformerConfig.preset("base-k400"))
    tracemalloc.start()
    text = sound(inspect_checkpoint(directory))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "parameters     121,566,352 in 249 tensors, float32" in text
    assert "size           486.3 MB" in text
    assert peak < 2**23, "the weights are 486 MB"


def test_no_pickled_tensor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_original(tmp_path / "a.pyth", original_reference())

    def read(*_: Any) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("timesformer_jax.checkpoints.tensors._to_numpy", read)
    sound(inspect_checkpoint(path))
    with pytest.raises(Exception, match="a tensor was read"):
        load_checkpoint(path)


def test_shards_are_one(tmp_path: Path) -> None:
    reference = tiny_reference(dtype=torch.float32)
    reference.save_pretrained(tmp_path, max_shard_size="20kB")
    shards = list(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    report = inspect_checkpoint(tmp_path)
    sound(report)
    index = tmp_path / "model.safetensors.index.json"
    assert report.num_bytes == sum(file.stat().st_size for file in (*shards, index))


@pytest.mark.parametrize("kind", ["hf", "pyth", "flax"])
def test_problems_are_those_of_loading(kind: str, tmp_path: Path) -> None:
    """What is reported is what loading says, and the tensors are shown all the same."""
    reference = original_reference(dtype=torch.float32)
    if kind == "pyth":
        state = original_state(reference)
        del state["model.norm.bias"]
        path = tmp_path / "a.pyth"
        torch.save({"model_state": state, "cfg": original_cfg(reference)}, path)
    else:
        path = tmp_path / "hf"
        reference.save_pretrained(path)
        if kind == "flax":
            path = save_converted(tmp_path / "flax", path)
        values = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(values | {"intermediate_size": 41}))
    report = inspect_checkpoint(path)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert report.problems == (str(error.value),)
    text = str(report)
    assert "loading would fail" in text
    assert "(128, 3, 4, 4) float32" in text or "(4, 4, 3, 128) float32" in text


def test_what_has_to_be_given_is_said(tmp_path: Path) -> None:
    path = save_original(tmp_path / "a.pyth", original_reference(hidden_size=24, num_attention_heads=3))
    report = inspect_checkpoint(path)
    assert "give num_attention_heads" in report.problems[0]
    sound(inspect_checkpoint(path, num_attention_heads=3))
    path = save_original(tmp_path / "b.pyth", original_reference(), dataset="ssv2")
    assert "channel order not known, to be given" in sound(inspect_checkpoint(path))


FILES = {
    "empty file": b"",
    "Git LFS pointer file": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 486\n",
    "text file": "Gewichte hier herunterladen: später\n".encode() * 40,
    "HTML or XML text": b"<!DOCTYPE html>\n<html><title>Sign in</title></html>",
    "JSON text": b'{"model_type": "timesformer"}',
    "PNG picture": b"\x89PNG\r\n\x1a\n" + bytes(20),
    "video (MP4)": b"\0\0\0\x18ftypmp42" + bytes(20),
    "HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "Python pickle": b"\x80\x04\x95\x0c\0\0\0\0\0\0\0\x8c\x02os\x94.",
    "ZIP archive": b"PK\x03\x04" + bytes(40),
    "file of unknown kind": bytes(range(256)) * 3,
}


@pytest.mark.parametrize("suffix", [".bin", ".pyth", ".safetensors", ""])
@pytest.mark.parametrize("kind", FILES)
def test_other_files(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(FILES[kind])
    report = inspect_checkpoint(path)
    assert report.problems
    assert str(path) in report.problems[0]
    assert report.num_bytes == len(FILES[kind])
    if suffix != ".safetensors" or kind != "file of unknown kind":
        assert kind in str(report).splitlines()[0]


def test_damaged_files(tmp_path: Path) -> None:
    reference = tiny_reference(dtype=torch.float32)
    reference.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    report = inspect_checkpoint(tmp_path)
    assert report.kind == "damaged safetensors file"
    assert report.problems


def test_directories(tmp_path: Path) -> None:
    report = inspect_checkpoint(tmp_path)
    assert "directory without a checkpoint" in str(report)
    assert "holds no checkpoint" in report.problems[0]
    with pytest.raises(CheckpointError, match="does not exist"):
        inspect_checkpoint(tmp_path / "none")
    (tmp_path / "params").mkdir()
    assert inspect_checkpoint(tmp_path).problems


def test_names_can_not_play_with_the_terminal(tmp_path: Path) -> None:
    state: dict[str, torch.Tensor] = {"\x1b[2J.weight": torch.zeros(1), ".".join("a" * 3000): torch.zeros(2)}
    save_file(state, tmp_path / "model.safetensors")
    report = inspect_checkpoint(tmp_path / "model.safetensors")
    assert report.problems
    assert "\x1b" not in str(report)
