"""Recipes: the paper's settings, what can't be, and the command line that changes them."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from runs import arguments, recipe

from timesformer_jax.cli import main
from timesformer_jax.errors import ConfigError
from timesformer_jax.presets import PRESETS
from timesformer_jax.support.files import cut_lines, read_lines
from timesformer_jax.training.recipe import RECIPES, Optimizer, Schedule, TrainConfig, total_steps
from timesformer_jax.training.run_directory import RunDirectory, RunError
from timesformer_jax.training.schedule import learning_rate_schedule


def test_the_papers_settings() -> None:
    assert {name for name in PRESETS if "howto" not in name} <= set(RECIPES)
    for name, preset in RECIPES.items():
        if name == "finetune" or name not in PRESETS:
            continue
        optimizer = preset.optimizer
        assert (optimizer.kind, optimizer.learning_rate, optimizer.momentum) == ("sgd", 0.005, 0.9)
        assert (optimizer.nesterov, optimizer.weight_decay, optimizer.decay_all) == (True, 1e-4, True)
        assert (preset.epochs, preset.batch_size, preset.model.drop_path_rate) == (15, 64, 0.1)
        assert preset.data.augmentation.flip == (0 if "ssv2" in name else 0.5)
    assert RECIPES["large-ssv2"].model.num_frames == 64
    assert RECIPES["hr-k400"].model.image_size == 448
    assert RECIPES["hr-k400"].data.augmentation.short_side == (448, 512)
    assert RECIPES["base-k600"].data.augmentation.short_side == (256, 320)
    assert RECIPES["hr-ssv2"].model.sampling_rate == "segments"


def test_the_papers_learning_rate() -> None:
    rate = learning_rate_schedule(Schedule(), 0.005, steps_per_epoch=10, total_steps=150)
    found = [float(rate(jnp.int32(step))) for step in (0, 109, 110, 139, 140, 149)]
    assert found == pytest.approx([0.005, 0.005, 0.0005, 0.0005, 0.00005, 0.00005])


def test_what_can_not_be() -> None:
    for changes, message in (
        ({"accumulation": 3}, "must divide batch_size"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"epochs": 0.0}, "epochs must be above 0"),
        ({"optimizer": Optimizer(ema_decay=1.0)}, r"ema_decay must be in \[0, 1\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            TrainConfig(**changes)
    assert total_steps(TrainConfig(epochs=2), 7.5) == 15
    assert total_steps(TrainConfig(steps=4), 7.5) == 4


def test_the_command_line_makes_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipe(tmp_path / "nothing here")
    model = dataclasses.replace(config.model, attention_order="parallel", position_embedding_type="space")
    config = dataclasses.replace(config, model=model)
    assert main(["train", "--output", str(tmp_path / "run"), *arguments(config)]) == 2
    said = capsys.readouterr().err
    assert "nothing here" in said
    assert "Traceback" not in said
    RunDirectory(tmp_path / "run").claim(config)  # which it would refuse if another had been written
    assert main(["train", "base-k400", "--output", str(tmp_path / "other")]) == 2
    assert "--data.train" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["train", "base-k400", "--help"])
    assert caught.value.code == 0
    assert "--optimizer.learning-rate" in capsys.readouterr().out


def test_one_process_at_a_time(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = f"""
from pathlib import Path
from timesformer_jax.training.run_directory import RunDirectory, RunError
try:
    with RunDirectory(Path({str(tmp_path / "run")!r})).locked():
        print("in")
except RunError as error:
    print(error)
"""
    with RunDirectory(tmp_path / "run").locked():
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "another process is training" in result.stdout
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "in\n"


def test_all_differences_are_named(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").claim(TrainConfig())
    with pytest.raises(RunError, match=r"batch_size is 8 here and 64 there; .*seed is 1 here and 0 there"):
        RunDirectory(tmp_path / "run").claim(TrainConfig(batch_size=8, seed=1, log_every=3))


def test_lines_after_a_step_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 3}) + "\n" for step in range(1, 6)]
    file.write_text("".join(lines) + '{"step": 6, "lo')
    assert [line["step"] for line in read_lines(file)] == [1, 2, 3, 4, 5]
    cut_lines(file, 3)
    assert file.read_text() == "".join(lines[:3])


def test_a_setting_that_is_newer_than_a_run_was_at_its_default(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.claim(TrainConfig())
    values = json.loads(run.config.read_text())
    del values["optimizer"]["momentum"]  # as if it had come with this version
    run.config.write_text(json.dumps(values))
    other = dataclasses.replace(TrainConfig(), optimizer=dataclasses.replace(Optimizer(), momentum=0.5))
    with pytest.raises(RunError, match=r"optimizer.momentum is 0.5 here and 0.9 there"):
        run.claim(other)
    run.claim(TrainConfig())
