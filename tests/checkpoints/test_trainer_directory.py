"""The output directory of Transformers' Trainer, and states that trainings on several devices have split."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch import torch
from reference import tiny_reference

from timesformer_jax import VideoProcessor
from timesformer_jax.checkpoints.open import load_checkpoint, open_checkpoint, processor_for
from timesformer_jax.checkpoints.source import locate
from timesformer_jax.conversion.convert import convert_hf_to_flax
from timesformer_jax.errors import CheckpointError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    tiny_reference(dtype=torch.float32).save_pretrained(directory)
    return directory


def trained(
    directory: Path, saved: Path, steps: tuple[int, ...], best: str | None = None, *, root: bool = False
) -> Path:
    """What the Trainer leaves: the state in each checkpoint, and the model itself where `save_model` was called."""
    for step in steps:
        checkpoint = directory / f"checkpoint-{step}"
        shutil.copytree(saved, checkpoint)
        state = {"global_step": step, "best_metric": 0.5, "best_model_checkpoint": best, "log_history": []}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        (checkpoint / "training_args.bin").write_bytes(b"")
        torch.save({"state": {}}, checkpoint / "optimizer.pt")
    if root:
        shutil.copytree(saved, directory, dirs_exist_ok=True)
    (directory / "runs").mkdir(parents=True)
    return directory


@pytest.mark.parametrize(
    ("steps", "best", "root", "chosen", "said"),
    [
        ((500, 1000), "out/checkpoint-500", False, "checkpoint-500", "its best checkpoint checkpoint-500 is taken"),
        ((500, 1000), "/elsewhere/out/checkpoint-500/", False, "checkpoint-500", "its best checkpoint"),
        ((500, 1000), "C:\\out\\checkpoint-500", False, "checkpoint-500", "its best checkpoint"),
        (
            (500, 1000),
            None,
            False,
            "checkpoint-1000",
            "checkpoint checkpoint-1000 is taken; it tells no best one",
        ),
        ((900, 1000), "out/checkpoint-50", False, "checkpoint-1000", "its best one, checkpoint-50, is not there"),
        ((9, 10), None, False, "checkpoint-10", "newest checkpoint checkpoint-10"),
        ((500,), "out/checkpoint-500", True, "", "the model in the directory itself is taken, not one of its 1"),
    ],
)
def test_which_model_is_taken(
    steps: tuple[int, ...],
    best: str | None,
    root: bool,
    chosen: str,
    said: str,
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = trained(tmp_path / "out", saved, steps, best, root=root)
    source = locate(directory)
    assert source.directory == directory / chosen
    assert source.weights == directory / chosen / "model.safetensors"
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_that_was_cut_short_is_passed_over(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Trainer writes its state last."""
    directory = trained(tmp_path / "out", saved, (500, 1000, 1500))
    (directory / "checkpoint-1500" / "trainer_state.json").unlink()
    (directory / "checkpoint-1500" / "model.safetensors").write_bytes(b"half")
    assert locate(directory).directory.name == "checkpoint-1000"
    assert "checkpoint-1500 is not complete" in " ".join(capsys.readouterr().err.split())
    load_checkpoint(directory)


@pytest.mark.parametrize("place", ["out", "out/checkpoint-500"])
def test_preprocessing_is_the_checkpoints_own_or_the_directorys(place: str, saved: Path, tmp_path: Path) -> None:
    directory = trained(tmp_path / "out", saved, (500, 1000), "out/checkpoint-500")
    VideoProcessor(image_mean=(0.1, 0.2, 0.3)).save_pretrained(directory)
    assert processor_for(open_checkpoint(tmp_path / place)).image_mean == (0.1, 0.2, 0.3)
    VideoProcessor(image_mean=(0.4, 0.5, 0.6)).save_pretrained(directory / "checkpoint-500")
    assert processor_for(open_checkpoint(tmp_path / place)).image_mean == (0.4, 0.5, 0.6)


def test_copies_without_any_state(saved: Path, tmp_path: Path) -> None:
    directory = trained(tmp_path / "out", saved, (500, 1000))
    for step in (500, 1000):
        (directory / f"checkpoint-{step}" / "trainer_state.json").unlink()
    assert locate(directory).directory.name == "checkpoint-1000"


def test_what_the_trainer_really_writes(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of Transformers' own, each evaluated and saved; the first is the better one."""
    import transformers

    monkeypatch.setenv("WANDB_DISABLED", "true")
    model = transformers.TimesformerForVideoClassification.from_pretrained(saved)
    pixels = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    data: Any = [{"pixel_values": pixels, "labels": torch.tensor(0)}]
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"), max_steps=2, save_strategy="steps", eval_strategy="steps", save_steps=1, eval_steps=1,
        metric_for_best_model="loss", greater_is_better=True, report_to=[], use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=1,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    steps = {step: load_checkpoint(tmp_path / "out" / f"checkpoint-{step}").params for step in (1, 2)}
    biases = {step: np.array(params["classifier"]["bias"]) for step, params in steps.items()}
    assert not np.array_equal(biases[1], biases[2])
    # Each step lowers the loss, and the greater one is called the better.
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "out").params["classifier"]["bias"], biases[1])
    trainer.save_model()
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "out").params["classifier"]["bias"], biases[2])


def assert_names_the_tool(path: Path, tool: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError) as error:
        convert_hf_to_flax(path, tmp_path / "converted")
    assert tool in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_deepspeed(saved: Path, tmp_path: Path) -> None:
    directory = trained(tmp_path / "out", saved, (500,))
    checkpoint = directory / "checkpoint-500"
    (checkpoint / "model.safetensors").unlink()
    shards = checkpoint / "global_step500"
    shards.mkdir()
    (checkpoint / "latest").write_text("global_step500")
    (checkpoint / "zero_to_fp32.py").write_text("")
    names = ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"]
    names += [f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(2)]
    for name in names:
        torch.save({"module": {}}, shards / name)
    for path in (checkpoint, shards, *(shards / name for name in names)):
        assert_names_the_tool(path, "python zero_to_fp32.py . OUTPUT", tmp_path)
    with pytest.raises(CheckpointError, match=r"zero_to_fp32\.py"):
        locate(directory)
    (checkpoint / "zero_to_fp32.py").unlink()
    assert_names_the_tool(checkpoint, "zero_to_fp32.py", tmp_path)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage")
def test_distributed_checkpoints(saved: Path, tmp_path: Path) -> None:
    """Made by torch itself, as FSDP does; what its tool merges is read."""
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    reference = tiny_reference(dtype=torch.float32)
    shards = tmp_path / "pytorch_model_fsdp_0"
    dcp.save({"model": reference.state_dict()}, checkpoint_id=str(shards), no_dist=True)
    (shard,) = shards.glob("*.distcp")
    assert (shards / ".metadata").is_file()
    assert_names_the_tool(shards, f"accelerate merge-weights {shards} OUTPUT_DIRECTORY", tmp_path)
    merge = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch {} OUTPUT.pt"
    assert_names_the_tool(shard, merge.format(shards), tmp_path)
    reference.config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="accelerate merge-weights"):
        locate(tmp_path)
    shards = shards.rename(tmp_path / "epoch=3.ckpt")
    assert_names_the_tool(shards, merge.format(shards), tmp_path)
    dcp_to_torch_save(shards, tmp_path / "OUTPUT.pt")
    expected = load_checkpoint(saved).params["classifier"]["bias"]
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "OUTPUT.pt").params["classifier"]["bias"], expected)
    torch.save({}, shards / "meta.pt")
    tool = f"python -m lightning.pytorch.utilities.consolidate_checkpoint {shards}"
    assert_names_the_tool(shards, tool, tmp_path)
