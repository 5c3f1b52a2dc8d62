"""Recipes: the paper's settings, what can't be, and the command line that changes them."""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax.numpy as jnp
import pytest
from runs import arguments, recipe

from timesformer_jax.cli import main
from timesformer_jax.data.config import Augmentation, Views
from timesformer_jax.errors import ConfigError
from timesformer_jax.presets import PRESETS
from timesformer_jax.support.files import cut_lines, read_lines
from timesformer_jax.training.recipe import RECIPES, Optimizer, Schedule, TrainConfig, total_steps
from timesformer_jax.training.run_directory import RunDirectory, RunError, flat
from timesformer_jax.training.schedule import learning_rate_schedule, remarks_on


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
    with pytest.raises(ConfigError, match="must divide batch_size"):
        TrainConfig(accumulation=3)
    with pytest.raises(ConfigError, match=r"milestones are \(14, 11\): each must be later"):
        Schedule(milestones=(14, 11))
    with pytest.raises(ConfigError, match=r"short_side is \(30, 20\): the lower length comes first"):
        Augmentation(short_side=(30, 20))
    assert total_steps(TrainConfig(epochs=2), 7.5) == 15
    assert total_steps(TrainConfig(steps=4), 7.5) == 4


def leaves(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Gives the name, the type and the value of every setting."""
    types = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, types[field.name], value


def changed(settings: Any, name: str, value: Any) -> Any:
    """Settings with another value under a dotted name."""
    first, _, rest = name.partition(".")
    return dataclasses.replace(settings, **{first: changed(getattr(settings, first), rest, value) if rest else value})


def is_number(kind: Any) -> bool:
    return kind in (int, float) or any(map(is_number, get_args(kind)))


SETTINGS = [*leaves(TrainConfig())]
NUMBERS = [(TrainConfig(), name, value) for name, kind, value in SETTINGS if is_number(kind)]
NUMBERS += [(Views(), name, value) for name, kind, value in leaves(Views()) if is_number(kind)]


@pytest.mark.parametrize(("settings", "name", "value"), NUMBERS, ids=[name for _, name, _ in NUMBERS])
def test_every_number_has_a_range(settings: Any, name: str, value: Any) -> None:
    for wrong in (math.nan, math.inf, -math.inf, -1, -0.5, 1e39, True, "1"):
        number: Any = (wrong, wrong) if isinstance(value, tuple) or name.endswith("short_side") else wrong
        with pytest.raises(ConfigError, match=f"^{name} is .*: it must be a (whole )?number"):
            changed(settings, name, number)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("batch_size", 1, [0, 1.0]),
        ("accumulation", 2, [0]),
        ("epochs", 0.1, [0, 0.0, 1e-50]),
        ("steps", 1, [0, 2.0]),
        ("seed", 0, [2**32]),
        ("optimizer.learning_rate", 1e38, [0, 0.0]),
        ("optimizer.weight_decay", 0, []),
        ("optimizer.momentum", 0, [1, 1 - 1e-9]),
        ("optimizer.beta1", 0.0, [1.0]),
        ("optimizer.beta2", 0.999999, [1, 1 - 1e-9]),
        ("optimizer.epsilon", 1e-30, [0, 1e-40]),
        ("optimizer.layer_decay", 0, [1.1]),
        ("optimizer.clip_norm", 0.1, [0]),
        ("optimizer.ema_decay", 0, [1.0]),
        ("schedule.warmup_epochs", 0, []),
        ("schedule.warmup_start", 1, [1.5]),
        ("schedule.milestones", [0, 2.5], [[0, -1]]),
        ("schedule.factor", 0, [2]),
        ("schedule.final", 1, [1.1]),
        ("checkpoints.validate_every", 0.1, [0]),
        ("model.drop_path_rate", 0.9, [1]),
        ("model.dropout", 0, [1.0]),
        ("model.attention_dropout", 0.5, [1.0]),
        ("model.num_frames", 1, [0, 8.0]),
        ("model.sampling_rate", 0.5, [0]),
        ("model.sampling_rate", "segments", []),
        ("data.workers", 0, [0.5]),
        ("data.max_bad_fraction", 1, [1.01]),
        ("data.augmentation.flip", 1, [1.5]),
        ("data.augmentation.erasing", 1.0, [1.5]),
        ("data.augmentation.mix_probability", 0, [2]),
        ("data.augmentation.label_smoothing", 0.9, [1]),
        ("data.augmentation.rand_augment_magnitude", 10, [10.5]),
        ("data.augmentation.short_side", (1, 1), [(0, 5)]),
    ],
)
def test_where_a_range_ends(name: str, right: Any, wrong: list[Any]) -> None:
    changed(TrainConfig(), name, right)
    for value in wrong:
        with pytest.raises(ConfigError, match=f"^{name} is "):
            changed(TrainConfig(), name, value)


def test_a_number_out_of_range_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    for command, message in (
        (
            ["train", "finetune", "--optimizer.clip-norm", "0"],
            "optimizer.clip_norm is 0.0: it must be a number above 0.",
        ),
        (
            ["train", "finetune", "--optimizer.beta2", "1"],
            "optimizer.beta2 is 1.0: it must be a number from 0 below 1.",
        ),
        (["train", "finetune", "--optimizer.learning-rate", "-1"], "optimizer.learning_rate is -1.0"),
        (["train", "base-k400", "--steps", "0"], "steps is 0: it must be a whole number, 1 or more."),
        (["evaluate", "nothing", "--crops", "0"], "crops is 0: it must be a whole number, 1 or more."),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*command, "--output", str(output)])
        said = capsys.readouterr().err
        assert message in " ".join(said.split())
        assert "Traceback" not in said
        assert not output.exists()


def test_what_lies_beyond_the_end_of_a_run_is_said() -> None:
    def said(schedule: Schedule, total: int = 20) -> list[str]:
        return remarks_on(schedule, steps_per_epoch=10, total_steps=total)

    (remark,) = said(Schedule(kind="cosine", warmup_epochs=10))
    assert remark.startswith("the warm-up of 100 steps (schedule.warmup_epochs) does not end within the run of 20: ")
    assert "reaches 0.19 of" in remark
    assert "reaches 0.95 of" in said(Schedule(kind="constant", warmup_epochs=2))[0]
    assert said(Schedule(kind="constant", warmup_epochs=1.9)) == []
    (remark,) = said(Schedule(milestones=(1, 2, 11)))
    assert "ends after 2 epochs: the learning rate does not fall at 2, 11 (schedule.milestones)" in remark
    assert said(Schedule(milestones=(1, 1.9))) == []
    assert said(Schedule(kind="cosine")) == []  # which knows no milestones
    assert len(said(Schedule(warmup_epochs=3))) == 2


def test_milestones_within_one_step_all_count() -> None:
    rate = learning_rate_schedule(Schedule(milestones=(1, 1.1), factor=0.5), 1.0, steps_per_epoch=2, total_steps=9)
    assert [float(rate(jnp.int32(step))) for step in (1, 2)] == [1.0, 0.25]


FREE = {
    *("data.train", "data.validation", "data.root", "data.classes", "data.workers", "data.prefetch"),
    *("data.train_split", "data.validation_split", "data.video_template"),
    *("data.max_bad_fraction", "checkpoints.every", "checkpoints.keep", "log_every"),
    *("mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.frames"),
}
"""The settings that may change from one start of a run to the next."""
KEPT = {
    *("batch_size", "accumulation", "epochs", "steps", "seed", "checkpoints.validate_every"),
    *(f"data.augmentation.{field.name}" for field in dataclasses.fields(Augmentation)),
    *("data.picture_template", "model.processor"),
    *("model.checkpoint", "model.base", "model.architecture", "model.attention_type", "model.attention_order"),
    *("model.position_embedding_type", "model.num_frames", "model.image_size", "model.sampling_rate"),
    *("model.patch_size", "model.hidden_size", "model.num_hidden_layers", "model.num_attention_heads"),
    *("model.intermediate_size", "model.initializer_range", "model.time_initializer_range", "model.drop_path_rate"),
    *("model.dropout", "model.attention_dropout", "model.dtype", "model.remat"),
    *("optimizer.kind", "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.decay_all"),
    *("optimizer.momentum", "optimizer.nesterov", "optimizer.beta1", "optimizer.beta2", "optimizer.epsilon"),
    *("optimizer.layer_decay", "optimizer.clip_norm", "optimizer.ema_decay"),
    *("schedule.kind", "schedule.warmup_epochs", "schedule.warmup_start", "schedule.milestones"),
    *("schedule.factor", "schedule.final"),
}
"""Those that decide what comes out of it."""


def other_value(kind: Any, value: Any) -> Any:
    """A value of a setting's type that is allowed and differs."""
    kinds = [each for each in get_args(kind) if each is not type(None)] if get_origin(kind) is UnionType else [kind]
    kind = kinds[0]
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if kind is bool:
        return not value
    if get_origin(kind) is tuple:
        return (256, 320) if value is None else tuple(2 * number for number in value)
    if kind is str:
        return "base-ssv2" if value == "base-k400" else "other"
    return (value or 0) + 1 if kind is int else (value or 1) / 2


@pytest.mark.parametrize(("name", "kind", "value"), SETTINGS, ids=[name for name, _, _ in SETTINGS])
def test_a_setting_that_changes_between_starts_is_refused_or_named(
    name: str, kind: Any, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (name in FREE) != (name in KEPT), "say in FREE or KEPT whether a run can go on with another value"
    run, other = RunDirectory(tmp_path / "run"), changed(TrainConfig(), name, other_value(kind, value))
    run.claim(TrainConfig())
    difference = re.escape(f"{name} is {json.dumps(other_value(kind, value))} here and {json.dumps(value)} there")
    if name in KEPT:
        with pytest.raises(RunError, match=f"another recipe: {difference}. Give the same"):
            run.claim(other)
        assert dict(flat(json.loads(run.config.read_text())))[name] == json.loads(json.dumps(value))
    else:
        run.claim(other)
        assert re.search(f"settings that may change have changed in .*: {difference}\n", capsys.readouterr().err)
        run.claim(other)
        assert capsys.readouterr().err == ""


def test_the_command_line_makes_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipe(tmp_path / "nothing here")
    model = dataclasses.replace(config.model, attention_order="parallel", position_embedding_type="space")
    config = dataclasses.replace(config, model=model)
    RunDirectory(tmp_path / "run").claim(config)  # in which it would refuse to work if it read another
    assert main(["train", "--output", str(tmp_path / "run"), *arguments(config)]) == 2
    said = capsys.readouterr().err
    assert "nothing here" in said
    assert "Traceback" not in said
    assert main(["train", "base-k400", "--output", str(tmp_path / "other")]) == 2
    assert "--data.train" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["train", "base-k400", "--help"])
    assert caught.value.code == 0
    assert "--optimizer.learning-rate" in capsys.readouterr().out


def test_a_start_that_fails_leaves_no_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The start after it, with other settings, is told what is wrong now, not what was claimed before."""
    run, config = tmp_path / "run", recipe(tmp_path / "nothing here")
    for seed in (0, 1):
        assert main(["train", "--output", str(run), *arguments(dataclasses.replace(config, seed=seed))]) == 2
        assert "nothing here" in capsys.readouterr().err
        assert not run.exists()
    run.mkdir()  # by hand, or by a scheduler for its log
    assert main(["train", "--output", str(run), *arguments(config)]) == 2
    assert list(run.iterdir()) == []


def test_what_a_failed_start_has_to_show_stays(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")

    def fail(wrote: Path, content: str) -> None:
        with contextlib.suppress(RuntimeError), run.locked(), run.claimed(TrainConfig(seed=3)):
            for path in (run.data, run.model / "config.json", run.metrics, run.tensorboard / "events", wrote):
                path.parent.mkdir(exist_ok=True)
                path.write_text(content if path == wrote else "")
            raise RuntimeError("later")

    fail(run.bad_videos, "a.mp4\n")
    assert [path.name for path in run.path.iterdir()] == ["bad_videos.txt"]
    fail(run.bad_videos, "a.mp4\n")  # which is no obstacle to a run
    fail(run.metrics, '{"step": 1}\n')
    assert run.config.exists()
    assert run.data.exists()
    with pytest.raises(RunError, match="another recipe"), run.locked(), run.claimed(TrainConfig()):
        pass
    assert run.config.exists()


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
