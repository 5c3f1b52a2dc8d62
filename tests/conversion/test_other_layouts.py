"""What other trainings leave, through the commands: converted, verified against PyTorch, classified, trained from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmaction2_checkpoints import config_text, save_mmaction2, tiny_recognizer
from pytorch import torch
from reference import tiny_reference
from runs import make_videos
from videos import moving_pictures, write_video

from timesformer_jax import TimesformerForVideoClassification, VideoClassifier, read_clip
from timesformer_jax.checkpoints.mapping import flat_names
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.cli import main
from timesformer_jax.conversion.convert import convert_flax_to_hf, convert_hf_to_flax
from timesformer_jax.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("quick_compile")


def lightning(tmp_path: Path, *, ema: bool = False) -> Path:
    """A Lightning file of a compiled model, with a weight of the loss, and a moving average if asked."""
    state = tiny_reference(dtype=torch.float32).state_dict()
    tensors = {f"model._orig_mod.{name}": tensor for name, tensor in state.items()} | {"loss.weight": torch.ones(7)}
    if ema:
        tensors |= {f"ema_model.module.{name}": tensor * 0.9 for name, tensor in state.items()}
    torch.save({"state_dict": tensors, "pytorch-lightning_version": "2.5.1", "epoch": 3}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def trainer(tmp_path: Path) -> Path:
    directory = tmp_path / "out" / "checkpoint-7"
    tiny_reference(dtype=torch.float32).save_pretrained(directory)
    (directory / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": "out/checkpoint-7"}))
    return directory.parent


def mmaction2(tmp_path: Path, attention_type: str = "divided_space_time") -> Path:
    model = tiny_recognizer(torch.float32, attention_type=attention_type, img_size=(8, 8))
    names = [f"action {i}" for i in range(7)]
    return save_mmaction2(tmp_path / "best.pth", model, meta={"dataset_meta": {"classes": names}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lightning, {"num_attention_heads": 3}),
        (lambda path: lightning(path, ema=True), {"num_attention_heads": 3, "training_weights": "ema"}),
        (trainer, {}),
        (mmaction2, {}),
        (lambda path: mmaction2(path, "joint_space_time"), {}),
        (lambda path: mmaction2(path, "space_only"), {}),
    ],
    ids=["lightning", "lightning ema", "trainer", "divided", "joint", "space only"],
)
def test_converted_both_ways_and_verified(make: Any, options: dict[str, Any], tmp_path: Path) -> None:
    source = make(tmp_path)
    assert convert_hf_to_flax(source, tmp_path / "flax", check=True, **options)
    assert convert_flax_to_hf(source, tmp_path / "hf", check=True, **options)
    expected = flat_names(load_checkpoint(source, **options).params)
    for directory in ("flax", "hf"):
        for name, leaf in flat_names(load_checkpoint(tmp_path / directory).params).items():
            np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


@pytest.mark.slow
def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The processor is the one of the config: the answers are the model's own for frames prepared as it says."""
    path, video = mmaction2(tmp_path), tmp_path / "a.mp4"
    write_video(video, moving_pictures(80, 16, 20))
    assert main(["inspect", str(path)]) == 0
    assert "TimeSformer in the format of mmaction2" in capsys.readouterr().out
    assert main(["classify", str(video), "--model", str(path), "--json", "--top-k", "7"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = {p["label"]: p["score"] for p in json.loads(line)["predictions"]}
    model, params = TimesformerForVideoClassification.from_pretrained(path)
    frames = read_clip(video, 3, sampling_rate=32)
    processor = VideoClassifier.from_pretrained(path).processor
    assert (processor.image_mean, processor.image_std) == ((0.5,) * 3, (0.5,) * 3)
    logits = np.asarray(model.apply({"params": params}, processor(frames)).logits)[0]
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    for i, score in enumerate(expected):
        assert found[f"action {i}"] == pytest.approx(score, abs=2e-3)  # read in one way or another, rounded


@pytest.mark.slow
def test_training_starts_from_it(tmp_path: Path) -> None:
    make_videos(tmp_path / "videos", training=2, validation=1)
    options = ["--data.train", str(tmp_path / "videos" / "train"), "--steps", "1", "--batch-size", "2"]
    options += [
        "--data.workers",
        "0",
        "--output",
        str(tmp_path / "run"),
        "--model.checkpoint",
        str(mmaction2(tmp_path)),
    ]
    assert main(["train", "finetune", *options, "--data.validation", str(tmp_path / "videos" / "validation")]) == 0
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.config.sampling_rate == 32
    assert list(checkpoint.config.id2label.values()) == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize("layout", ["lightning", "mmaction2"])
def test_refused_at_the_command_line(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit code 2, nothing written."""
    if layout == "lightning":
        path = lightning(tmp_path, ema=True)
    else:
        model = tiny_recognizer(torch.float32, img_size=(8, 8))
        text = config_text(model).replace("eps=1e-06", "eps=1e-05")
        path = save_mmaction2(tmp_path / "a.pth", model, text=text)
    video = tmp_path / "a.mp4"
    write_video(video, moving_pictures(12, 16, 20))
    before = sorted(tmp_path.rglob("*"))
    assert main(["classify", str(video), "--model", str(path)]) == 2
    errors = capsys.readouterr().err
    assert ("holds 2 models" if layout == "lightning" else "norm_cfg") in errors
    assert "Traceback" not in errors
    assert main(["inspect", str(path)]) == 2
    with pytest.raises(CheckpointError):
        convert_hf_to_flax(path, tmp_path / "flax", check=True)
    assert sorted(tmp_path.rglob("*")) == before
