"""PEFT adapters: merged into their base as PEFT itself merges them in float64, or refused in one sentence."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import tyro
from adapters import edit, edit_tensors, load_base, merged_by_peft, save_adapter, state
from pytorch import peft, torch, transformers
from pytorch_checkpoints import ORIGINAL, original_reference, save_original, tiny_vit
from reference import TINY, clip, tiny_reference
from runs import make_videos
from videos import moving_pictures, write_video

from timesformer_jax import TimesformerModel, VideoProcessor
from timesformer_jax.checkpoints import adapter_merging
from timesformer_jax.checkpoints.huggingface import to_state_dict
from timesformer_jax.checkpoints.inspection import inspect_checkpoint
from timesformer_jax.checkpoints.mapping import flat_names
from timesformer_jax.checkpoints.open import load_checkpoint, processor_for
from timesformer_jax.cli import main, run_command
from timesformer_jax.commands.options import Loading
from timesformer_jax.conversion.convert import convert_flax_to_hf, convert_hf_to_flax
from timesformer_jax.errors import CheckpointError, TimesformerError, VerificationError
from timesformer_jax.training.initial_model import start_from_recipe
from timesformer_jax.training.recipe import ModelOptions
from timesformer_jax.video import read_clip

FLOAT64 = np.dtype(np.float64)
NAMES = {i: f"class {i}" for i in range(7)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of 7 named classes in float32."""
    directory = tmp_path_factory.mktemp("models") / "base"
    tiny_reference(dtype=torch.float32, id2label=NAMES, label2id={v: k for k, v in NAMES.items()}).save_pretrained(
        directory
    )
    return directory


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    """An adapter beside it, with a new head of 5 classes."""
    return save_adapter(base.parent / "adapter", load_base(base, num_labels=5), modules_to_save=["classifier"])


def assert_equal_to_peft(source: Path, model: Any, adapter: Path | None = None, **options: Any) -> Any:
    """Compares what is loaded from a source with what PEFT makes of a model in float64 and the adapter.

    Matrix products are summed in another order here: a few units in the last place.
    """
    expected = state(merged_by_peft(model, adapter or source))
    checkpoint = load_checkpoint(source, dtype=FLOAT64, **options)
    actual = to_state_dict(checkpoint.params, checkpoint.config)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(actual[name], tensor, rtol=0, atol=1e-14, err_msg=name)
    return checkpoint


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora, ranks and alphas by patterns": {
        "use_rslora": True,
        "rank_pattern": {
            "layer.1.attention.attention.qkv": 3,
            r"^timesformer\.encoder\.layer\.0\..*qkv": 5,
            "qkv": 2,
        },
        "alpha_pattern": {r".*temporal_attention\..*": 3.5, "output.dense": 11},
    },
    "one regular expression": {
        "target_modules": r".*\.layer\.\d+\.(temporal_)?attention\.(attention\.qkv|output\.dense)"
    },
    "all linear layers": {"target_modules": "all-linear"},
    "all linear layers but a head": {"target_modules": "all-linear", "task_type": "SEQ_CLS"},
    "a convolution": {"target_modules": ["projection"], "r": 2},
    "excluded modules": {"exclude_modules": ["layer.1.intermediate.dense", "attention.qkv"]},
    "excluded by an expression": {"exclude_modules": r".*layer\.1.*"},
    "some layers": {"layers_to_transform": [1], "target_modules": ["dense", "temporal_dense"]},
    "one layer of a list": {
        "layers_to_transform": 0,
        "layers_pattern": "layer",
        "target_modules": ["dense", "classifier"],
    },
    "all biases and a head": {"bias": "all", "modules_to_save": ["classifier"], "target_modules": ["qkv"]},
    "biases of what is changed": {"bias": "lora_only"},
    "biases of the second matrix": {"lora_bias": True, "bias": "lora_only", "target_modules": ["projection", "qkv"]},
    "norms held whole": {"modules_to_save": ["layernorm", "no_such_module"]},
    "DoRA": {"use_dora": True, "target_modules": ["qkv", "temporal_dense", "projection", "classifier"]},
    "DoRA and rslora": {"use_dora": True, "use_rslora": True, "bias": "all", "modules_to_save": ["classifier"]},
    "dropout and a Gaussian start": {"lora_dropout": 0.3, "init_lora_weights": "gaussian", "fan_in_fan_out": False},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_merged_as_peft_does(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    save_adapter(tmp_path, load_base(base), **settings)
    changes = load_checkpoint(base, dtype=FLOAT64).params
    merged = assert_equal_to_peft(tmp_path, load_base(base)).params
    same = [np.array_equal(one, other) for one, other in zip(*map(jax.tree.leaves, (changes, merged)), strict=True)]
    assert not all(same)


@pytest.mark.parametrize("pattern", ["all-linear", "ALL-LINEAR"])
def test_all_linear_layers_by_the_word_itself(base: Path, tmp_path: Path, pattern: str) -> None:
    """PEFT writes the names that the word stands for; people's own files may hold the word."""
    save_adapter(tmp_path, load_base(base), target_modules="all-linear")
    edit(tmp_path / "adapter_config.json", target_modules=pattern)
    assert_equal_to_peft(tmp_path, load_base(base))


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_adapters_in_other_types_and_files(base: Path, tmp_path: Path, storage: torch.dtype, safe: bool) -> None:
    save_adapter(tmp_path, load_base(base), dtype=storage, safe_serialization=safe)
    assert_equal_to_peft(tmp_path, load_base(base))


def test_a_bare_model(base: Path, tmp_path: Path) -> None:
    tiny_reference(head=False).save_pretrained(tmp_path / "bare")
    save_adapter(tmp_path / "adapter", load_base(tmp_path / "bare", head=False), target_modules=["qkv", "projection"])
    assert_equal_to_peft(tmp_path / "adapter", load_base(tmp_path / "bare", head=False))
    # The same adapter on the classifier: PEFT's names are those of the bare model, and its classifier is left out.
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(base))
    checkpoint = assert_equal_to_peft(tmp_path / "adapter", load_base(base, head=False))
    assert checkpoint.changes.dropped == ["classifier/kernel", "classifier/bias"]


def test_a_head_on_a_bare_base(tmp_path: Path) -> None:
    tiny_reference(head=False).save_pretrained(tmp_path / "bare")
    settings = {"modules_to_save": ["classifier"]}
    save_adapter(tmp_path / "adapter", load_base(tmp_path / "bare", num_labels=4), **settings)
    checkpoint = assert_equal_to_peft(tmp_path / "adapter", load_base(tmp_path / "bare", num_labels=4))
    assert checkpoint.config.num_labels == 4
    # Without the head the encoder alone is known, by the classifier's names.
    save_adapter(tmp_path / "headless", load_base(tmp_path / "bare"))
    expected = state(merged_by_peft(load_base(tmp_path / "bare"), tmp_path / "headless"))
    loaded = load_checkpoint(tmp_path / "headless", dtype=FLOAT64)
    actual = to_state_dict(loaded.params, loaded.config)
    assert {f"timesformer.{name}" for name in actual} == {name for name in expected if "classifier" not in name}
    for name, tensor in actual.items():
        np.testing.assert_allclose(tensor, expected[f"timesformer.{name}"], rtol=0, atol=1e-14, err_msg=name)


def test_names_of_new_classes(base: Path, adapter: Path, tmp_path: Path) -> None:
    checkpoint = assert_equal_to_peft(adapter, load_base(base, num_labels=5))
    assert checkpoint.config.id2label == {i: f"LABEL_{i}" for i in range(5)}
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    assert load_checkpoint(adapter, labels=tmp_path / "names.txt").config.id2label[4] == "e"
    # As many classes as the base has: PEFT knows no other names than the base's.
    save_adapter(tmp_path / "same", load_base(base), modules_to_save=["classifier"])
    assert load_checkpoint(tmp_path / "same").config.id2label == NAMES
    # An adapter that Transformers adds and saves, and a config.json beside it, which Transformers reads then.
    model = load_base(base, id2label={i: f"new {i}" for i in range(5)})
    model.add_adapter(peft.LoraConfig(target_modules=["qkv"], modules_to_save=["classifier"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "transformers")
    model.config.save_pretrained(tmp_path / "transformers")
    checkpoint = assert_equal_to_peft(tmp_path / "transformers", load_base(base, num_labels=5))
    assert checkpoint.config.id2label == {i: f"new {i}" for i in range(5)}
    edit(tmp_path / "transformers" / "config.json", layer_norm_eps=1e-5)
    with pytest.raises(CheckpointError, match=r"layer_norm_eps 1e-05 and the config of the base .* 1e-06"):
        load_checkpoint(tmp_path / "transformers")


def test_config_fields_change_after_merging(base: Path, adapter: Path) -> None:
    plain, longer = load_checkpoint(adapter), load_checkpoint(adapter, num_frames=8, num_labels=3)
    assert longer.config.num_labels == 3
    assert "timesformer/embeddings/time_embeddings" in longer.changes.resized
    for name, leaf in flat_names(longer.params).items():
        if "time_embeddings" not in name and "classifier" not in name:
            np.testing.assert_array_equal(leaf, flat_names(plain.params)[name])


def test_stored_in_the_types_of_the_base(tmp_path: Path) -> None:
    """The sum is computed in float64 and rounded once."""
    tiny_reference(dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "adapter", load_base(tmp_path / "base"), dtype=torch.float32)
    expected = state(merged_by_peft(load_base(tmp_path / "base"), tmp_path / "adapter"))
    for dtype in (None, np.dtype(np.float32), np.dtype(np.float16)):
        checkpoint = load_checkpoint(tmp_path / "adapter", dtype=dtype)
        for name, tensor in to_state_dict(checkpoint.params, checkpoint.config).items():
            assert tensor.dtype == (dtype or ml_dtypes.bfloat16), name
            np.testing.assert_array_equal(tensor, expected[name].astype(tensor.dtype), err_msg=name)


class TestBase:
    """Which model an adapter is merged into."""

    def assert_on(self, source: Path, model: Path, **options: Any) -> None:
        assert_equal_to_peft(source, load_base(model), **options)

    def test_relative_paths(self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As PEFT takes them, from the directory of the process; then from the adapter's."""
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        save_adapter(tmp_path / "runs" / "adapter", load_base(base), base="../base")
        shutil.copytree(base, tmp_path / "runs" / "base")
        self.assert_on(tmp_path / "runs" / "adapter", base)
        tiny_reference(seed=3).save_pretrained(tmp_path / "base")
        self.assert_on(tmp_path / "runs" / "adapter", tmp_path / "base")

    def test_given(self, base: Path, tmp_path: Path) -> None:
        save_adapter(tmp_path / "adapter", load_base(base), base="/moved/away")
        with pytest.raises(CheckpointError, match=r"is an adapter for /moved/away, which is not found .*--base"):
            load_checkpoint(tmp_path / "adapter")
        self.assert_on(tmp_path / "adapter", base, base=base)
        self.assert_on(tmp_path / "adapter", base, base=base / "model.safetensors")
        with pytest.raises(CheckpointError, match="/nothing/here does not exist"):
            load_checkpoint(tmp_path / "adapter", base="/nothing/here")
        with pytest.raises(CheckpointError, match="is no PEFT adapter"):
            load_checkpoint(base, base=base)

    @pytest.mark.parametrize("named", [None, "", "itself"])
    def test_beside_its_base(
        self, base: Path, tmp_path: Path, named: str | None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        both = shutil.copytree(base, tmp_path / "both")
        save_adapter(both, load_base(base))
        edit(both / "adapter_config.json", base_model_name_or_path=str(both) if named == "itself" else named)
        self.assert_on(both, base)
        assert "an adapter, merged into" in capsys.readouterr().err
        alone = load_checkpoint(both / "model.safetensors").params
        assert "is not merged into it" in capsys.readouterr().err
        jax.tree.map(np.testing.assert_array_equal, alone, load_checkpoint(base).params)

    def test_beside_other_weights(self, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Weights beside an adapter that names another base may be the merged ones: Transformers leaves them alone."""
        both = tmp_path / "both"
        for directory in (both, tmp_path / "other"):
            tiny_reference(seed=5, dtype=torch.float32).save_pretrained(directory)
        save_adapter(both, load_base(base))
        self.assert_on(both, base)
        assert "the weights beside it are not used" in capsys.readouterr().err
        by_transformers = transformers.TimesformerForVideoClassification.from_pretrained(both, dtype=torch.float64)
        checkpoint = load_checkpoint(both, dtype=FLOAT64)
        merged = to_state_dict(checkpoint.params, checkpoint.config)
        model = load_base(base)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in merged.items()})
        frames = torch.from_numpy(clip(model.config).transpose(0, 1, 4, 2, 3))
        with torch.no_grad():
            torch.testing.assert_close(model(frames).logits, by_transformers.eval()(frames).logits, rtol=0, atol=1e-12)
        self.assert_on(both, tmp_path / "other", base=both)

    @pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
    def test_the_files_of_an_adapter_stand_for_it(self, base: Path, tmp_path: Path, file: str) -> None:
        save_adapter(tmp_path, load_base(base))
        checkpoint = load_checkpoint(tmp_path / file, dtype=FLOAT64)
        expected = load_checkpoint(tmp_path, dtype=FLOAT64)
        jax.tree.map(np.testing.assert_array_equal, checkpoint.params, expected.params)

    def test_sub_directories(self, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        save_adapter(tmp_path, load_base(base), name="first")
        self.assert_on(tmp_path / "first", base)
        assert_equal_to_peft(tmp_path, load_base(base), tmp_path / "first")
        assert "the adapter in it is first" in capsys.readouterr().err
        save_adapter(tmp_path, load_base(base), name="second", seed=1)
        with pytest.raises(CheckpointError, match="holds 2 adapters, first, second; give one"):
            load_checkpoint(tmp_path)
        save_adapter(tmp_path, load_base(base), seed=2)
        self.assert_on(tmp_path, base)
        assert "and not first, second" in capsys.readouterr().err

    def test_directory_of_a_trainer(self, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Its best checkpoint, or the adapter that was saved into the directory itself."""
        for step in (8, 16):
            save_adapter(tmp_path / f"checkpoint-{step}", load_base(base), seed=step)
            state = {"global_step": step, "best_model_checkpoint": "somewhere/checkpoint-8"}
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
        own = VideoProcessor(size=12, crop_size=(12, 12), image_mean=(0.1, 0.2, 0.3))
        own.save_pretrained(tmp_path)
        checkpoint = assert_equal_to_peft(tmp_path, load_base(base), tmp_path / "checkpoint-8")
        assert processor_for(checkpoint) == own
        assert "its best checkpoint checkpoint-8 is taken" in capsys.readouterr().err
        save_adapter(tmp_path, load_base(base), seed=2)
        self.assert_on(tmp_path, base)
        said = capsys.readouterr().err
        assert "not one of its 2 checkpoints" in said
        assert "of its adapters" not in said
        # A base in such a directory.
        shutil.copytree(base, tmp_path / "full" / "checkpoint-3")
        self.assert_on(tmp_path, base, base=tmp_path / "full")

    def test_other_formats(self, tmp_path: Path) -> None:
        reference = original_reference()
        save_original(tmp_path / "a.pyth", reference)
        reference.save_pretrained(tmp_path / "hf")
        reference.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
        reference.save_pretrained(tmp_path / "bin", safe_serialization=False)
        convert_hf_to_flax(tmp_path / "hf", tmp_path / "converted")
        save_adapter(tmp_path / "adapter", load_base(tmp_path / "hf"), target_modules=["qkv", "projection", "dense"])
        for name in ("a.pyth", "hf", "sharded", "bin", "converted"):
            self.assert_on(tmp_path / "adapter", tmp_path / "hf", base=tmp_path / name)
        assert ORIGINAL["num_labels"] == load_checkpoint(tmp_path / "adapter").config.num_labels

    def test_preprocessing(self, base: Path, tmp_path: Path) -> None:
        """That of the fine-tuning, where the adapter has one; else the base's."""
        save_original(tmp_path / "a.pyth", original_reference())
        original_reference().save_pretrained(tmp_path / "hf")
        save_adapter(tmp_path / "adapter", load_base(tmp_path / "hf"))
        for name in ("hf", "a.pyth"):
            expected = processor_for(load_checkpoint(tmp_path / name))
            assert processor_for(load_checkpoint(tmp_path / "adapter", base=tmp_path / name)) == expected
        own = VideoProcessor(size=30, crop_size=(20, 20), image_mean=(0.1, 0.2, 0.3))
        own.save_pretrained(tmp_path / "adapter")
        for name in ("hf", "a.pyth"):
            assert processor_for(load_checkpoint(tmp_path / "adapter", base=tmp_path / name)) == own


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "IA3": ({"peft_type": "IA3"}, "an adapter of the kind IA3, and LoRA alone is read"),
    "LoHa": ({"peft_type": "LOHA"}, "an adapter of the kind LOHA"),
    "prompt tuning": ({"peft_type": "PROMPT_TUNING"}, "an adapter of the kind PROMPT_TUNING"),
    "no kind": ({"peft_type": None}, "has no peft_type"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4', for which PEFT changes"),
    "OLoRA": ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
    "a truth that is none": ({"init_lora_weights": 1}, "init_lora_weights is 1"),
    "layers replicated": ({"layer_replication": [[0, 2]]}, "sets layer_replication, which is not read"),
    "parameters targeted": ({"target_parameters": ["cls_token"]}, "sets target_parameters"),
    "what comes in later versions": ({"use_magic": True, "more": 3}, "sets more, use_magic, which is not read"),
    "no rank": ({"r": 0}, "r must be a whole number above 0, not 0"),
    "a rank in words": ({"r": "four"}, "r must be a whole number above 0, not 'four'"),
    "no number": ({"lora_alpha": [8]}, r"lora_alpha must be a number, not \[8\]"),
    "not a number": ({"lora_alpha": float("nan")}, "lora_alpha must be a number, not nan"),
    "too large a number": ({"lora_alpha": 10**400}, "lora_alpha must be a number"),
    "a pattern's value": ({"rank_pattern": {"qkv": 2.5}}, "rank_pattern must be whole numbers above 0 by names"),
    "a broken expression": ({"alpha_pattern": {"(qkv": 2}}, r"'\(qkv' is no regular expression"),
    "a broken target": ({"target_modules": "*qkv"}, r"'\*qkv' is no regular expression"),
    "no targets": ({"target_modules": None}, "names no target_modules"),
    "unknown targets": ({"target_modules": ["query", "value"]}, r"\('query', 'value'\) are no modules of the base"),
    "no linear layer": ({"target_modules": ["layernorm_after"]}, "targets .*layernorm_after, which is no linear layer"),
    "numbers of layers": ({"layers_to_transform": ["1"]}, "layers_to_transform must be the numbers of layers"),
    "layers of an expression": (
        {"target_modules": ".*qkv", "layers_to_transform": [1]},
        "with a list of target_modules",
    ),
    "biases": ({"bias": "some"}, 'bias must be "none", "all" or "lora_only"'),
    "DoRA with biases": ({"use_dora": True, "lora_bias": True}, "use_dora and lora_bias, which don't go together"),
    "DoRA without lengths": ({"use_dora": True}, "lora_magnitude_vector is missing"),
    "another rank": ({"r": 8}, r"lora_A.weight is \(4, 24\) where \(8, 24\) is expected"),
    "targets that lack tensors": ({"target_modules": ["qkv", "dense", "temporal_dense"]}, r"temporal_dense\.lora_A"),
    "tensors that no target asks for": ({"target_modules": ["qkv"]}, "is no tensor of the base"),
    "a head that is not there": ({"modules_to_save": ["classifier"]}, r"classifier\.bias is missing, and classifier"),
    "modules within each other": (
        {"modules_to_save": ["attention"]},
        "names .*attention and .*attention.attention within",
    ),
    "biases that are not there": ({"bias": "lora_only"}, r"\.bias is missing"),
    "no base": ({"base_model_name_or_path": None}, "does not name the model that the adapter is for; .*--base"),
    "a number for a base": ({"base_model_name_or_path": 3}, "base_model_name_or_path must be a text, not 3"),
}


@pytest.fixture(scope="module")
def plain(base: Path) -> Path:
    return save_adapter(base.parent / "plain", load_base(base))


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_settings(
    plain: Path, tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = shutil.copytree(plain, tmp_path / "adapter")
    edit(adapter / "adapter_config.json", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(adapter)
    assert "\n" not in str(caught.value)
    report = inspect_checkpoint(adapter)
    assert report.problems
    assert str(caught.value) in report.problems[0]
    assert main(["inspect", str(adapter)]) == 2


def without(name: str) -> Any:
    return lambda tensors: [tensors.pop(key) for key in list(tensors) if name in key]


TENSORS: dict[str, tuple[Any, str]] = {
    "a missing tensor": (without("layer.1.output.dense.lora_B"), r"layer\.1\.output\.dense\.lora_B\.weight is missing"),
    "a missing layer": (without("layer.1."), "is missing, and .* is missing .10 more problems."),
    "no tensors of LoRA": (without("qkv"), "is missing"),
    "an extra tensor": (lambda t: t.update(extra=torch.zeros(2)), "extra is no tensor of the base"),
    "a tensor of whole numbers": (
        lambda t: t.update({key: tensor.int() for key, tensor in t.items()}),
        "is int32|is i32",
    ),
    "an empty tensor, as FSDP leaves it": (
        lambda t: t.update({key: tensor[:0] for key, tensor in t.items() if "0.intermediate" in key}),
        r"lora_A.weight is \(0, 24\) where \(4, 24\) is expected",
    ),
    "the same tensor by two names": (
        lambda t: t.update({key.removeprefix("base_model.model."): tensor.clone() for key, tensor in t.items()}),
        "twice",
    ),
}


@pytest.mark.parametrize(("change", "message"), TENSORS.values(), ids=TENSORS.keys())
def test_refused_tensors(plain: Path, tmp_path: Path, change: Any, message: str) -> None:
    adapter = shutil.copytree(plain, tmp_path / "adapter")
    edit_tensors(adapter, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(adapter)
    assert "\n" not in str(caught.value)


def test_refused_files(plain: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(plain, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is empty \(0 bytes\)"):
        load_checkpoint(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has an adapter_config.json and none of adapter_model.safetensors"):
        load_checkpoint(adapter)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        load_checkpoint(adapter)


def test_layers_of_an_adapter_in_a_weights_file(base: Path, plain: Path, tmp_path: Path) -> None:
    """What torch.save(model.state_dict()) makes of PEFT's model: the scale of the adapter is not in it."""
    adapted = peft.PeftModel.from_pretrained(load_base(base), str(plain))
    torch.save(adapted.state_dict(), tmp_path / "state.pt")
    torch.save({"state_dict": adapted.state_dict(), "epoch": 1}, tmp_path / "last.ckpt")
    for source in (tmp_path / "state.pt", tmp_path / "last.ckpt"):
        with pytest.raises(CheckpointError, match="holds the layers of a PEFT adapter, which nothing in it says"):
            load_checkpoint(source)
        assert inspect_checkpoint(source).problems


def test_weights_of_an_adapter_alone(
    base: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(plain / "adapter_model.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"adapter_config.json that says how to merge it is not there; copy it"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="holds the layers of a PEFT adapter"):
        load_checkpoint(tmp_path / "adapter_model.safetensors")
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(tmp_path).params, load_checkpoint(base).params)
    assert "is not there: it is left alone" in capsys.readouterr().err


@pytest.mark.parametrize("value", [3, "x", [1], [{"adapter": "a"}], {"a": "b"}, None])
def test_records_that_others_wrote(base: Path, plain: Path, tmp_path: Path, value: Any) -> None:
    directory = shutil.copytree(base, tmp_path / "base")
    edit(directory / "config.json", merged_adapters=value)
    assert not inspect_checkpoint(directory).problems
    (record,) = load_checkpoint(plain, base=directory).config.extra["merged_adapters"]
    assert record["adapter"] == "plain"


def test_refused_bases(base: Path, plain: Path, adapter: Path, tmp_path: Path) -> None:
    tiny_reference(hidden_size=48).save_pretrained(tmp_path / "wide")
    with pytest.raises(CheckpointError, match=r"does not fit .*lora_A.weight is \(4, 24\) where \(4, 48\) is expected"):
        load_checkpoint(plain, base=tmp_path / "wide")
    tiny_reference(num_hidden_layers=3).save_pretrained(tmp_path / "deep")
    with pytest.raises(CheckpointError, match=r"layer\.2\..* is missing"):
        load_checkpoint(plain, base=tmp_path / "deep")
    tiny_reference(attention_type="joint_space_time").save_pretrained(tmp_path / "joint")
    with pytest.raises(CheckpointError, match=r"temporal_attention.* is no tensor of the base"):
        load_checkpoint(plain, base=tmp_path / "joint")
    with pytest.raises(CheckpointError, match=r"and its base .* another; merge that one first"):
        load_checkpoint(plain, base=adapter)
    tiny_vit(head=True).save_pretrained(tmp_path / "vit")
    with pytest.raises(CheckpointError, match="a ViT, whose adapters are not read"):
        load_checkpoint(plain, base=tmp_path / "vit", num_frames=5)
    save_adapter(tmp_path / "head", load_base(base), target_modules=["classifier", "qkv"])
    tiny_reference(head=False).save_pretrained(tmp_path / "bare")
    with pytest.raises(CheckpointError, match=r"classifier\.lora_A.weight is no tensor of the base"):
        load_checkpoint(tmp_path / "head", base=tmp_path / "bare")
    tiny_reference(qkv_bias=False).save_pretrained(tmp_path / "without biases")
    save_adapter(tmp_path / "bias", load_base(base), target_modules=["qkv"], lora_bias=True)
    with pytest.raises(CheckpointError, match=r"sets lora_bias, and .*qkv has no bias"):
        load_checkpoint(tmp_path / "bias", base=tmp_path / "without biases")


@pytest.mark.usefixtures("quick_compile")
class TestConversion:
    """A converted adapter is verified against PEFT, and what is written says that it was merged."""

    def test_to_flax(self, base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert convert_hf_to_flax(adapter, tmp_path / "flax", check=True)
        assert "an adapter, merged into" in capsys.readouterr().err
        expected = load_checkpoint(adapter).params
        converted = load_checkpoint(tmp_path / "flax")
        jax.tree.map(np.testing.assert_array_equal, converted.params, expected)
        (record,) = json.loads((tmp_path / "flax" / "config.json").read_text())["merged_adapters"]
        assert (record["adapter"], record["base"]) == ("adapter", "base")
        text = str(inspect_checkpoint(tmp_path / "flax"))
        assert "adapter into base" in text
        with pytest.raises(CheckpointError, match=r"has .*adapter merged into it already"):
            load_checkpoint(adapter, base=tmp_path / "flax")
        # And on to Transformers, which keeps the record.
        convert_flax_to_hf(tmp_path / "flax", tmp_path / "hf")
        transformers.TimesformerForVideoClassification.from_pretrained(tmp_path / "hf")
        with pytest.raises(CheckpointError, match="merged into it already"):
            load_checkpoint(adapter, base=tmp_path / "hf")

    @pytest.mark.slow
    def test_to_transformers(self, adapter: Path, tmp_path: Path) -> None:
        assert convert_flax_to_hf(adapter, tmp_path / "hf", check=True)
        merged = load_checkpoint(tmp_path / "hf")
        jax.tree.map(np.testing.assert_array_equal, merged.params, load_checkpoint(adapter).params)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_in_narrower_types(self, base: Path, tmp_path: Path, dtype: str) -> None:
        save_adapter(tmp_path / "adapter", load_base(base), bias="all", use_dora=True, modules_to_save=["classifier"])
        assert convert_hf_to_flax(tmp_path / "adapter", tmp_path / "flax", param_dtype=dtype, check=True)

    def test_onto_a_converted_base(self, base: Path, adapter: Path, tmp_path: Path) -> None:
        convert_hf_to_flax(base, tmp_path / "base")
        convert_hf_to_flax(adapter, tmp_path / "merged", base=tmp_path / "base")
        expected = load_checkpoint(adapter).params
        jax.tree.map(np.testing.assert_array_equal, load_checkpoint(tmp_path / "merged").params, expected)
        with pytest.raises(CheckpointError, match="holds no PyTorch weights to compare with"):
            convert_hf_to_flax(adapter, tmp_path / "checked", base=tmp_path / "base", check=True)
        assert not (tmp_path / "checked").exists()
        # Another adapter goes onto the merged model, and both are remembered.
        save_adapter(tmp_path / "second", load_base(base, num_labels=5), seed=4)
        convert_hf_to_flax(tmp_path / "second", tmp_path / "twice", base=tmp_path / "merged")
        records = json.loads((tmp_path / "twice" / "config.json").read_text())["merged_adapters"]
        assert [record["adapter"] for record in records] == ["adapter", "second"]

    @pytest.mark.parametrize("convert", [convert_hf_to_flax, pytest.param(convert_flax_to_hf, marks=pytest.mark.slow)])
    def test_a_wrong_merge_is_found(
        self, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convert: Any
    ) -> None:
        right = adapter_merging._merged_tensor  # pyright: ignore[reportPrivateUsage]

        def wrong(adapter: Any, changed: Any, name: str, weight: Any) -> np.ndarray:
            return right(adapter, changed, name, weight) + 1e-3 * ("layer.1.output" in name)

        monkeypatch.setattr(adapter_merging, "_merged_tensor", wrong)
        with pytest.raises(VerificationError, match="differ by more than float32 explains"):
            convert(adapter, tmp_path / "out", check=True)
        assert not (tmp_path / "out").exists()

    def test_nothing_is_written_for_a_bad_adapter(self, plain: Path, tmp_path: Path) -> None:
        adapter = shutil.copytree(plain, tmp_path / "adapter")
        edit(adapter / "adapter_config.json", peft_type="IA3")
        with pytest.raises(TimesformerError):
            convert_hf_to_flax(adapter, tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_without_peft(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT is needed for verification alone."""
    monkeypatch.setitem(sys.modules, "peft", None)
    convert_hf_to_flax(adapter, tmp_path / "flax")
    with pytest.raises(CheckpointError, match="verification needs PyTorch, Transformers and peft"):
        convert_hf_to_flax(adapter, tmp_path / "checked", check=True)


def test_inspect(base: Path, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = inspect_checkpoint(adapter)
    assert report.kind == "TimeSformer in the format of Transformers, with a PEFT adapter merged into it"
    assert report.config == load_checkpoint(adapter).config
    assert report.tensors["classifier.weight"] == ((5, 24), "float64")
    assert main(["inspect", str(adapter)]) == 0
    text = capsys.readouterr().out
    assert "LoRA of rank 4" in text
    assert f"base           {base}" in text
    assert "5 (names not known)" in text
    assert main(["summary", str(adapter), "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert any(part["name"] == "classifier" for part in parts)


@pytest.mark.usefixtures("quick_compile")
class TestCommands:
    """Every command that loads a checkpoint takes an adapter, and its base with --base."""

    @pytest.fixture
    def moved(self, base: Path, tmp_path: Path) -> Path:
        """An adapter that does not find its base by itself."""
        return save_adapter(tmp_path / "moved", load_base(base), base="/moved/away")

    def test_classify(self, base: Path, moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_video(tmp_path / "a.mp4", moving_pictures(20))
        command = ["classify", str(tmp_path / "a.mp4"), "--model", str(moved), "--json", "--top-k", "7"]
        assert main(command) == 2
        assert "which is not found" in capsys.readouterr().err
        assert main([*command, "--base", str(base)]) == 0
        output = capsys.readouterr()
        assert f"an adapter, merged into {base}" in output.err
        (line,) = output.out.splitlines()
        logits = {item["label"]: item["logit"] for item in json.loads(line)["predictions"]}
        pixels = processor_for(load_checkpoint(base))(read_clip(tmp_path / "a.mp4", TINY["num_frames"]))
        with torch.no_grad():
            merged = merged_by_peft(load_base(base), moved)
            expected = merged(torch.from_numpy(pixels.transpose(0, 1, 4, 2, 3)).double()).logits[0].tolist()
        assert [logits[f"class {i}"] for i in range(7)] == pytest.approx(expected, abs=1e-4)

    def test_inspect_and_summary(self, base: Path, moved: Path) -> None:
        for command in ("inspect", "summary"):
            assert main([command, str(moved)]) == 2
            assert main([command, str(moved), "--base", str(base)]) == 0

    def test_train(self, base: Path, moved: Path) -> None:
        options = ModelOptions(checkpoint=str(moved), base=str(base), num_frames=TINY["num_frames"])
        start = start_from_recipe(options, [f"class {i}" for i in range(7)], seed=0)
        expected = load_checkpoint(moved, base=base, dtype=np.dtype(np.float32))
        jax.tree.map(np.testing.assert_array_equal, start.params, expected.params)

    @pytest.mark.slow
    def test_evaluate(self, base: Path, moved: Path, tmp_path: Path) -> None:
        make_videos(tmp_path, classes=7, training=0, validation=1)
        merged = merged_by_peft(load_base(base), moved).float()
        merged.save_pretrained(tmp_path / "merged")
        common = ["--data.validation", str(tmp_path / "validation"), "--config.sampling-rate", "2"]
        lines: list[list[Any]] = []
        for number, model in enumerate(([str(moved), "--base", str(base)], [str(tmp_path / "merged")])):
            output = tmp_path / f"evaluation {number}"
            assert main(["evaluate", *model, *common, "--data.workers", "0", "--output", str(output)]) == 0
            lines.append([json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()])
        assert len(lines[0]) == len(lines[1]) == 7
        for one, other in zip(*lines, strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                assert value == pytest.approx(other[key], rel=1e-5) if "score" in key else value == other[key], key

    def test_every_command_has_the_option(self, moved: Path, base: Path) -> None:
        assert Loading(base=str(base)).options()["base"] == str(base)
        assert load_checkpoint(moved, **Loading(base=str(base)).options()).source.name == str(moved)

    def test_convert(self, base: Path, moved: Path, tmp_path: Path) -> None:
        for name in ("convert_hf_to_flax", "convert_flax_to_hf"):
            path = Path(__file__).parents[2] / "convert" / f"{name}.py"
            spec = importlib.util.spec_from_file_location(f"adapter_{name}", path)
            assert spec is not None
            assert spec.loader is not None
            script = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = script  # tyro looks there for what the annotations mean
            spec.loader.exec_module(script)
            arguments = [str(moved), str(tmp_path / name)]
            assert run_command(tyro.cli(script.Arguments, args=arguments).run) == 2
            assert not (tmp_path / name).exists()
            assert run_command(tyro.cli(script.Arguments, args=[*arguments, "--base", str(base)]).run) == 0
            expected = load_checkpoint(moved, base=base).params
            jax.tree.map(np.testing.assert_array_equal, load_checkpoint(tmp_path / name).params, expected)


def test_the_bare_model_of_an_adapter(base: Path, adapter: Path) -> None:
    model, params = TimesformerModel.from_pretrained(adapter, base=base)
    merged = load_checkpoint(adapter).params["timesformer"]
    jax.tree.map(np.testing.assert_array_equal, params, merged)
    assert model.config.hidden_size == TINY["hidden_size"]
