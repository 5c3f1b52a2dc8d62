"""convert_hf_to_flax as it is installed: whole results, or none; verified against PyTorch, or failed."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
import tyro
from pytorch import torch, transformers
from pytorch_checkpoints import original_reference, save_original, tiny_vit
from reference import ATTENTION_TYPES, disturb, tiny_reference
from videos import moving_pictures, write_video

from timesformer_jax import TimesformerForVideoClassification, TimesformerModel, VideoProcessor
from timesformer_jax.checkpoints import pretrained
from timesformer_jax.checkpoints.mapping import Entry, flat_names
from timesformer_jax.cli import run_command
from timesformer_jax.conversion.convert import convert_flax_to_hf, convert_hf_to_flax
from timesformer_jax.errors import CheckpointError, VerificationError, VideoError

SCRIPT = Path(__file__).parents[2] / "convert" / "convert_hf_to_flax.py"


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError("blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_script(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Command:
    """As `run_script`, but in this process: to import everything anew takes longer than to convert a tiny model."""
    spec = importlib.util.spec_from_file_location("convert_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # tyro looks there for what the annotations mean
    spec.loader.exec_module(script)

    def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
        caplog.clear()
        code = run_command(tyro.cli(script.Arguments, args=list(map(str, arguments))).run)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess([SCRIPT, *arguments], code, printed.out, printed.err + caplog.text)

    return run


def save_tiny(directory: Path, **settings: Any) -> Path:
    tiny_reference(dtype=torch.float32, **settings).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize("head", [True, False], ids=["classifier", "bare"])
def test_converts_and_verifies(attention_type: str, head: bool, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "hf", attention_type=attention_type, head=head)
    differences = convert_hf_to_flax(source, tmp_path / "flax", check=True)
    layers = 2
    assert [d.name for d in differences] == [
        "logits" if head else "last hidden state",
        *(f"hidden state {i}" for i in range(layers + 1)),
        *(f"attention {i}" for i in range(layers)),
    ]
    assert all(0 < d.largest_difference < 1e-5 * d.largest_value for d in differences[2:])
    assert sorted(path.name for path in (tmp_path / "flax").iterdir()) == [
        "config.json",
        "params",
        "preprocessor_config.json",
    ]
    kind = TimesformerForVideoClassification if head else TimesformerModel
    model, params = kind.from_pretrained(tmp_path / "flax")
    expected_model, expected = kind.from_pretrained(source)
    assert model.config.replace(extra={}) == expected_model.config.replace(extra={})
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_the_command_end_to_end(tmp_path: Path, command: Command) -> None:
    source = save_tiny(tmp_path / "hf")
    VideoProcessor(size=14, crop_size=(12, 12), image_mean=(0.1, 0.2, 0.3)).save_pretrained(source)
    write_video(tmp_path / "clip.mp4", moving_pictures(40))
    result = run_script(source, tmp_path / "flax", "--verify", "--video", tmp_path / "clip.mp4")
    assert result.returncode == 0, result.stderr
    assert "hidden state 2" in result.stdout
    assert "converted" in result.stdout
    assert VideoProcessor.from_pretrained(tmp_path / "flax") == VideoProcessor.from_pretrained(source)

    again = command(source, tmp_path / "flax")
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1, again.stderr
    assert "--overwrite" in again.stderr
    assert command(source, tmp_path / "flax", "--overwrite").returncode == 0
    converted = command(tmp_path / "flax", tmp_path / "twice")
    assert (converted.returncode, "converted directory already" in converted.stderr) == (2, True)


@pytest.mark.parametrize(("height", "width"), [(20, 16), (18, 24)])
def test_verifies_at_the_preprocessing_s_size(height: int, width: int, tmp_path: Path) -> None:
    """Which need not be the config's, three patches wide here."""
    source = save_tiny(tmp_path / "hf")
    VideoProcessor(size=min(height, width), crop_size=(height, width)).save_pretrained(source)
    video = moving_pictures(10, 24, 24)
    if height % 4 == 0:
        differences = convert_hf_to_flax(source, tmp_path / "flax", check=True, video=video)
        assert all(d.explained for d in differences)
    else:
        with pytest.raises(VideoError, match="height 18"):
            convert_hf_to_flax(source, tmp_path / "flax", check=True, video=video)
        assert not (tmp_path / "flax").exists()


def test_a_model_that_differs_fails_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_tiny(tmp_path / "hf")
    before = sorted(tmp_path.iterdir())

    def save_disturbed(directory: Path, params: Any) -> None:
        params["timesformer"]["encoder"]["layers"]["temporal_dense"]["bias"][1] += 1e-2
        save(directory, params)

    save = pretrained.save_params
    monkeypatch.setattr(pretrained, "save_params", save_disturbed)
    with pytest.raises(VerificationError, match=r"hidden state 2|logits"):
        convert_hf_to_flax(source, tmp_path / "flax", check=True)
    assert sorted(tmp_path.iterdir()) == before


def test_a_failed_overwrite_keeps_what_was_there(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "hf")
    convert_hf_to_flax(source, tmp_path / "flax")
    before = {path: path.read_bytes() for path in (tmp_path / "flax").rglob("*") if path.is_file()}
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        convert_hf_to_flax(source, tmp_path / "flax", overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "flax").rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flax", "hf"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_stored_and_verified_as_stored(dtype: Any, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "hf")
    convert_hf_to_flax(source, tmp_path / "flax", param_dtype=dtype, check=True)
    _, params = TimesformerForVideoClassification.from_pretrained(tmp_path / "flax")
    _, exact = TimesformerForVideoClassification.from_pretrained(source)
    for name, leaf in flat_names(params).items():
        assert leaf.dtype == dtype, name
        np.testing.assert_array_equal(leaf, flat_names(exact)[name].astype(dtype))


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_verify_says_what_is_not_installed(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    source = save_tiny(tmp_path / "hf")
    monkeypatch.setitem(sys.modules, missing, None)
    result = command(source, tmp_path / "flax", "--verify")
    assert result.returncode == 2
    assert f"{missing} is not installed" in result.stderr
    assert "pip install torch transformers" in result.stderr
    assert not (tmp_path / "flax").exists()


def test_without_verify_neither_torch_nor_transformers_is_needed(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "hf")
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    result = run_script(source, tmp_path / "flax", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "flax" / "params").is_dir()


def test_published_models_bring_their_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path / "facebook" / "timesformer-base-finetuned-k400")
    monkeypatch.chdir(tmp_path)
    convert_hf_to_flax("facebook/timesformer-base-finetuned-k400", "flax")
    assert json.loads((tmp_path / "flax" / "config.json").read_text())["timesformer_jax"] == {"sampling_rate": 32.0}


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize("head", [True, False], ids=["classifier", "bare"])
def test_there_and_back_is_bit_for_bit(attention_type: str, head: bool, tmp_path: Path) -> None:
    names = {i: f"é{i}" for i in range(7)}
    source = save_tiny(tmp_path / "hf", attention_type=attention_type, head=head, id2label=names)
    VideoProcessor(size=14, crop_size=(12, 12), image_mean=(0.1, 0.2, 0.3)).save_pretrained(source)
    convert_hf_to_flax(source, tmp_path / "flax")
    differences = convert_flax_to_hf(tmp_path / "flax", tmp_path / "back", check=True, max_shard_size="20KB")
    assert len(differences) == 6
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    kind = getattr(transformers, "TimesformerForVideoClassification" if head else "TimesformerModel")
    before = kind.from_pretrained(source).state_dict()
    model, info = kind.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values()), info
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.config.id2label == names
    assert model.config.attention_type == attention_type
    processor = transformers.VideoMAEImageProcessor.from_pretrained(tmp_path / "back")
    assert (processor.size, processor.image_mean) == ({"shortest_edge": 14}, [0.1, 0.2, 0.3])


def test_the_model_card_is_one(tmp_path: Path) -> None:
    save_tiny(tmp_path / "hf")
    convert_flax_to_hf(tmp_path / "hf", tmp_path / "card", sampling_rate=4.0)
    card = huggingface_hub.ModelCard.load(tmp_path / "card" / "README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "video-classification",
        "tags": ["timesformer", "video"],
    }
    for fact in (
        "divided_space_time",
        "5 frames of 12 x 12 pixels",
        "4 x 4 pixels",
        "one frame in 4, at 30",
        "float32",
    ):
        assert fact in card.text
    model = transformers.TimesformerForVideoClassification.from_pretrained(tmp_path / "card")
    assert f"{sum(p.numel() for p in model.parameters()):,}" in card.text


def test_a_disturbed_way_back_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_tiny(tmp_path / "hf")
    exact = Entry.to_torch
    monkeypatch.setattr(Entry, "to_torch", lambda entry, leaf: exact(entry, leaf) * 1.01)
    with pytest.raises(VerificationError, match=r"hidden state|logits"):
        convert_flax_to_hf(source, tmp_path / "back", check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_what_is_no_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "hf")
    thesis = tmp_path / "home" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    for convert in (convert_hf_to_flax, convert_flax_to_hf):
        with pytest.raises(CheckpointError, match="not overwritten"):
            convert(source, tmp_path / "home", overwrite=True)
    assert thesis.read_text() == "years of work"


def test_saving_keeps_other_files_and_removes_stale_weights(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "hf")
    model, params = TimesformerForVideoClassification.from_pretrained(source)
    target = tmp_path / "out"
    model.save_pretrained(target, params)
    (target / "notes.txt").write_text("mine")
    model.save_pretrained(target, params, max_shard_size="20KB")
    assert not (target / "model.safetensors").exists()  # Transformers would load it before the shards
    assert (target / "notes.txt").read_text() == "mine"
    model.save_pretrained(target, params)
    assert sorted(path.name for path in target.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "notes.txt",
    ]
    with pytest.raises(CheckpointError, match="missing: classifier"):
        model.save_pretrained(target, {"timesformer": params["timesformer"]})
    assert len(list(target.iterdir())) == 4


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_an_original_checkpoint_through_the_command(attention_type: str, tmp_path: Path, command: Command) -> None:
    reference = original_reference(attention_type=attention_type, dtype=torch.float32)
    source = save_original(tmp_path / "weights.pyth", reference, dataset="ssv2")
    classes = reference.config.num_labels
    (tmp_path / "labels.txt").write_text("".join(f"name {i}\n" for i in range(classes)))

    asked = command(source, tmp_path / "flax")
    assert (asked.returncode, "bgr" in asked.stderr, (tmp_path / "flax").exists()) == (2, True, False)
    options = ["--labels", tmp_path / "labels.txt", "--channel-order", "bgr", "--verify"]
    result = command(source, tmp_path / "flax", *options)
    assert result.returncode == 0, result.stderr
    assert "BGR" in result.stderr
    assert result.stdout.count(" ok ") == 1 + 3 + 2  # logits, hidden states, attentions
    settings = json.loads((tmp_path / "flax" / "preprocessor_config.json").read_text())
    assert (settings["channel_order"], settings["image_mean"]) == ("bgr", [0.45, 0.44, 0.43])
    model, _ = TimesformerForVideoClassification.from_pretrained(tmp_path / "flax")
    assert (model.config.id2label[1], model.config.sampling_rate) == ("name 1", "segments")

    # On to Transformers: bit for bit what the .pyth held.
    convert_flax_to_hf(tmp_path / "flax", tmp_path / "back", check=True)
    kind = transformers.TimesformerForVideoClassification
    loaded, info = kind.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values()), info
    assert all(torch.equal(tensor, reference.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_a_vit_becomes_a_timesformer_through_the_command(tmp_path: Path, command: Command) -> None:
    tiny_vit(dtype=torch.float32).save_pretrained(tmp_path / "vit")
    options = ["--config.num-labels", 5, "--config.num-frames", 3, "--config.attention-type", "divided_space_time"]
    result = command(tmp_path / "vit", tmp_path / "flax", *options)
    assert result.returncode == 0, result.stderr
    assert "new, to be trained" in result.stderr
    model, _ = TimesformerForVideoClassification.from_pretrained(tmp_path / "flax")
    assert (model.config.num_labels, model.config.num_frames) == (5, 3)
    refused = command(tmp_path / "vit", tmp_path / "verified", *options, "--verify")
    assert (refused.returncode, (tmp_path / "verified").exists()) == (2, False)


@pytest.mark.slow
def test_transformers_5_loads_what_is_written(tmp_path: Path) -> None:
    """In a second environment: its huggingface_hub can't stand beside that of Transformers 4."""
    python = os.environ.get("TRANSFORMERS5_PYTHON")
    if python is None:
        pytest.skip("TRANSFORMERS5_PYTHON does not name a Python that has Transformers 5")
    rng = np.random.default_rng(0)
    expected = {}
    for attention_type in ATTENTION_TYPES:
        source = save_tiny(tmp_path / "hf" / attention_type, attention_type=attention_type, drop_path_rate=0.1)
        directory = tmp_path / attention_type
        convert_flax_to_hf(source, directory, max_shard_size="20KB")
        model, params = TimesformerForVideoClassification.from_pretrained(directory)
        assert model.config.drop_path_rate == 0.1
        clip = rng.standard_normal((1, 5, 12, 12, 3), dtype=np.float32)
        np.save(tmp_path / f"{attention_type}.npy", clip.transpose(0, 1, 4, 2, 3))
        outputs = model.apply({"params": params}, clip, output_hidden_states=True)
        expected[attention_type] = np.asarray(outputs.hidden_states[-1]).reshape(-1, 24)
    program = """
import json, sys, numpy, torch, transformers
assert int(transformers.__version__.split(".")[0]) >= 5, transformers.__version__
for name in sys.argv[1:]:
    model, info = transformers.TimesformerForVideoClassification.from_pretrained(name, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        outputs = model.eval()(torch.from_numpy(numpy.load(name + ".npy")), output_hidden_states=True)
    numpy.save(name + "-out.npy", outputs.hidden_states[-1].reshape(-1, 24).numpy())
    assert model.config.id2label[6] == "LABEL_6" and model.config.drop_path_rate == 0
    processor = transformers.AutoImageProcessor.from_pretrained(name)
    assert dict(processor.crop_size)["height"] == 12, processor
print("Transformers", transformers.__version__)
"""
    result = subprocess.run(
        [python, "-c", program, *ATTENTION_TYPES], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for attention_type in ATTENTION_TYPES:
        found = np.load(tmp_path / f"{attention_type}-out.npy")
        # float32 rounding over two layers.
        np.testing.assert_allclose(found, expected[attention_type], atol=2e-5 * np.abs(found).max())


@pytest.mark.slow
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_verify_works_with_transformers_5(attention_type: str, tmp_path: Path) -> None:
    python = os.environ.get("TRANSFORMERS5_PYTHON")
    if python is None:
        pytest.skip("TRANSFORMERS5_PYTHON does not name a Python that has Transformers 5")
    save_tiny(tmp_path / "hf", attention_type=attention_type)
    command = [python, str(SCRIPT), str(tmp_path / "hf"), str(tmp_path / "flax"), "--verify"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "logits" in result.stderr + result.stdout
    assert (tmp_path / "flax" / "params").is_dir()


@pytest.mark.slow
def test_what_docs_differences_says_of_transformers_5(tmp_path: Path) -> None:
    """Where it changes its ways, the table is to be changed."""
    python = os.environ.get("TRANSFORMERS5_PYTHON")
    if python is None:
        pytest.skip("TRANSFORMERS5_PYTHON does not name a Python that has Transformers 5")
    tiny_reference(dtype=torch.float16).save_pretrained(tmp_path / "hf")
    program = """
import sys, torch, transformers
def refused(rate):
    try:
        transformers.TimesformerConfig(drop_path_rate=rate)
    except Exception:
        return True
assert refused(0.1) and refused(0.0) and not refused(0)
model = transformers.TimesformerForVideoClassification.from_pretrained(sys.argv[1])
assert model.dtype == torch.float16, model.dtype
model.float()(torch.zeros(1, 5, 3, 12, 12), output_hiden_states=True)
"""
    result = subprocess.run([python, "-c", program, str(tmp_path / "hf")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_base_model_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(num_labels=400))
    with torch.no_grad():
        disturb(model)
    model.save_pretrained(tmp_path / "hf")
    write_video(tmp_path / "clip.mp4", moving_pictures(60, 240, 320))
    result = run_script(tmp_path / "hf", tmp_path / "flax", "--verify", "--video", tmp_path / "clip.mp4")
    assert result.returncode == 0, result.stdout + result.stderr
