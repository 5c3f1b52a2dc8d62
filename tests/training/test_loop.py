"""A training run from the first step to the export, in this process: what it writes, keeps, refuses and says."""

import contextlib
import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from pytorch import torch, transformers
from runs import recipe, videos

from timesformer_jax import TimesformerForVideoClassification, VideoProcessor
from timesformer_jax.checkpoints.inspection import inspect_checkpoint
from timesformer_jax.checkpoints.mapping import flat_names
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.conversion.convert import convert_flax_to_hf, convert_hf_to_flax
from timesformer_jax.errors import CheckpointError, TrainingError
from timesformer_jax.evaluation.prediction import make_predict
from timesformer_jax.support.files import read_lines
from timesformer_jax.training import job
from timesformer_jax.training.checkpointing import Checkpoints, steps_in
from timesformer_jax.training.initial_model import start_from_recipe
from timesformer_jax.training.loop import TrainResult, train
from timesformer_jax.training.recipe import Checkpointing, Optimizer, Schedule
from timesformer_jax.training.run_directory import RunDirectory, RunError
from timesformer_jax.training.soundness import why_unsound
from timesformer_jax.training.stopping import StopRequest

__all__ = ["videos"]  # a fixture


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Equal programs are traced and compiled once for all runs in this file (whose videos have the same classes)."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compile_step, compiled = job.Job.compiled_step, {}

    def compiled_step(self: job.Job) -> Any:
        anywhere = dataclasses.replace(self.config.data, train=None, prefetch=1, max_bad_fraction=0.0)
        key = dataclasses.replace(self.config, data=anywhere)
        if key not in compiled:
            compiled[key] = compile_step(self)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.Job, "compiled_step", compiled_step)
        patch.setattr(job, "make_predict", functools.cache(make_predict))
        yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult, list[int]]:
    run, seen = tmp_path_factory.mktemp("finished") / "run", []
    result = train(recipe(videos), run, observer=lambda step, total, values: seen.append(step))
    return run, result, seen


def test_the_step_is_compiled_with_the_options_of_the_device(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "compiler_options", lambda: {"xla_no_option": "1"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_option"):
        train(recipe(videos, seed=12345), tmp_path / "run")


def test_what_a_run_leaves_behind(finished: tuple[Path, TrainResult, list[int]], videos: Path) -> None:
    run, result, seen = finished
    assert (result.finished, result.step, seen) == (True, 12, list(range(1, 13)))
    lines = read_lines(run / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert steps[0].keys() == {"step", "epoch", "loss", "accuracy", "gradient_norm", "learning_rate"}
    assert steps[5]["epoch"] == 2.0  # 12 videos in batches of 4
    assert [line["step"] for line in lines if "validation_accuracy" in line] == [9, 12]
    performance = read_lines(run / "performance.jsonl")
    assert [line["step"] for line in performance] == [3, 6, 9, 12]
    assert performance[0].keys() == {"step", "step_time", "clips_per_second", "data_wait", "memory"}
    assert all(line["memory"] > 1e6 and line["clips_per_second"] > 0 for line in performance)
    (start,) = read_lines(run / "versions.jsonl")
    assert start["step"] == 0
    assert start["versions"]["jax"] == jax.__version__
    config = json.loads((run / "train_config.json").read_text())
    assert config["optimizer"]["kind"] == "adamw"
    assert config["data"]["train"] == str(videos / "train")
    kept = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    assert set(kept) >= {9, 12} or set(kept) >= {8, 9, 12}


def test_tensorboard_reads_the_events(finished: tuple[Path, TrainResult, list[int]]) -> None:
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (finished[0] / "tensorboard").iterdir()
    content, events = file.read_bytes(), []
    while content:  # TFRecord: length, its checksum, data, its checksum
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    found = {(event.step, value.tag) for event in events for value in event.summary.value}
    assert {(step, "loss") for step in range(1, 13)} <= found
    assert {(12, "step_time"), (12, "validation_accuracy")} <= found


def test_transformers_loads_the_export(finished: tuple[Path, TrainResult, list[int]]) -> None:
    _, result, _ = finished
    model, loading = transformers.TimesformerForVideoClassification.from_pretrained(
        result.export, output_loading_info=True
    )
    assert not any(loading.values())
    assert model.config.id2label == {0: "class 0", 1: "class 1", 2: "class 2"}
    pixels = np.random.default_rng(0).normal(size=(1, 3, 8, 8, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(pixels.transpose(0, 1, 4, 2, 3))).logits.numpy()
    found = result.model.apply({"params": result.params}, pixels).logits
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert VideoProcessor.from_pretrained(result.export) == result.processor


@pytest.mark.slow
@pytest.mark.parametrize("attention_type", ["axial", "sparse_local_global"])
def test_a_model_that_transformers_has_not(attention_type: Any, videos: Path, tmp_path: Path) -> None:
    """Ends in a converted directory, and goes on after a stop as all do; every parameter has learnt."""
    model = dataclasses.replace(
        recipe(videos).model, attention_type=attention_type, position_embedding_type="space", time_initializer_range=0.1
    )
    config = recipe(videos, model=model)
    assert not train(config, tmp_path / "run", max_seconds=0).finished
    result = train(config, tmp_path / "run")
    assert result.export is not None
    loaded, params = TimesformerForVideoClassification.from_pretrained(result.export)
    assert loaded.config == result.model.config
    assert loaded.config.attention_type == attention_type
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params), jax.device_get(result.params))
    assert VideoProcessor.from_pretrained(result.export) == result.processor
    start = start_from_recipe(config.model, ["class 0", "class 1", "class 2"], config.seed).params
    for name, leaf in flat_names(jax.device_get(params)).items():
        assert np.abs(leaf - flat_names(start)[name]).max() > 1e-7, name  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=f"no TimeSformer with attention_type '{attention_type}'"):
        convert_flax_to_hf(tmp_path / "run", tmp_path / "hf")
    convert_hf_to_flax(tmp_path / "run", tmp_path / "flax")
    assert (tmp_path / "flax" / "config.json").read_text() == (result.export / "config.json").read_text()


def test_a_run_is_a_checkpoint(finished: tuple[Path, TrainResult, list[int]], tmp_path: Path) -> None:
    run, result, _ = finished
    average, last = (load_checkpoint(run, training_weights=weights).params for weights in ("ema", "last"))
    jax.tree.map(np.testing.assert_array_equal, average, jax.device_get(result.params))
    assert np.abs(average["classifier"]["kernel"] - last["classifier"]["kernel"]).max() > 1e-6
    model, params = TimesformerForVideoClassification.from_pretrained(run)
    assert model.config.id2label[1] == "class 1"
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params), average)

    report = inspect_checkpoint(run)
    assert (report.problems, report.config, report.path.name) == ((), model.config, "12")
    assert report.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert report.facts["weights"] == "moving average"
    assert "in training, after step 12" in str(report)

    convert_flax_to_hf(run, tmp_path / "average")
    assert (tmp_path / "average" / "model.safetensors").read_bytes() == (
        run / "export" / "model.safetensors"
    ).read_bytes()
    earlier = run / "checkpoints" / "9"
    convert_flax_to_hf(earlier, tmp_path / "earlier", training_weights="last")
    assert (tmp_path / "earlier" / "model.safetensors").read_bytes() != (
        run / "export" / "model.safetensors"
    ).read_bytes()


def test_a_finished_run_is_left_alone(finished: tuple[Path, TrainResult, list[int]], videos: Path) -> None:
    run, result, _ = finished
    before = (run / "metrics.jsonl").read_bytes()
    again = train(recipe(videos), run)
    assert (again.finished, again.step) == (True, 12)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.params), jax.device_get(result.params))
    assert (run / "metrics.jsonl").read_bytes() == before
    assert again.metrics["loss"] == result.metrics["loss"]


def test_time_runs_out_and_the_run_goes_on(
    finished: tuple[Path, TrainResult, list[int]], videos: Path, tmp_path: Path
) -> None:
    result = train(recipe(videos), tmp_path / "run", max_seconds=0)
    assert (result.finished, result.step, result.export) == (False, 1, None)
    with pytest.raises(RunError, match=r"optimizer.learning_rate is 0.5 here and 0.003 there"):
        train(recipe(videos, optimizer=Optimizer(kind="adamw", learning_rate=0.5)), tmp_path / "run")
    # Other videos are refused. The same ones may lie elsewhere, and what does not change the result may change.
    other = dataclasses.replace(recipe(videos).data, train=str(videos / "validation"))
    with pytest.raises(RunError, match=r"the videos of --data\.train are not those"):
        train(recipe(videos, data=other), tmp_path / "run")
    data = dataclasses.replace(recipe(videos).data, train=f"file://{videos}/train", prefetch=2, max_bad_fraction=0.3)
    result = train(recipe(videos, data=data), tmp_path / "run", profile=True)
    assert result.finished
    assert len(list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))) == 1  # which xprof reads
    for name in ("metrics.jsonl", "export/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished[0] / name).read_bytes()


def test_a_stop_during_validation_costs_no_step(
    finished: tuple[Path, TrainResult, list[int]], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_batch = job.predict_batch
    # Three batches of validation videos: stopped in the validation after step 9, and in the one after step 12.
    for patience, step in ((1, 9), (3 + 1, 12)):
        stop, calls = StopRequest(), iter(range(1, 100))

        def watched(*args: Any, stop: Any = stop, calls: Any = calls, patience: int = patience) -> Any:
            stop.made = next(calls) == patience
            return predict_batch(*args)

        monkeypatch.setattr(job, "predict_batch", watched)
        result = train(recipe(videos), tmp_path / "run", stop=stop)
        assert (result.finished, result.step, result.export) == (False, step, None)
        assert read_lines(tmp_path / "run" / "metrics.jsonl")[-1].keys() >= {"loss"}  # nothing of that validation
        assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
    monkeypatch.setattr(job, "predict_batch", predict_batch)
    assert train(recipe(videos), tmp_path / "run").finished
    for name in ("metrics.jsonl", "export/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished[0] / name).read_bytes()


@pytest.mark.parametrize(
    ("rate", "steps", "problem"),
    [
        (3e38, 12, "one of the weights is not finite"),
        (3e37, 2, "the model has finite weights but gives scores that are not finite"),
    ],
)
def test_a_run_that_diverges(rate: float, steps: int, problem: str, videos: Path, tmp_path: Path) -> None:
    """The first step has a rate of 0; the second breaks the weights, while its own loss and gradient are sound."""
    config = recipe(
        videos,
        optimizer=Optimizer(kind="sgd", learning_rate=rate, ema_decay=0.9),
        schedule=Schedule(kind="constant", warmup_epochs=1 / 3, warmup_start=0),
        checkpoints=Checkpointing(every=1),
        steps=steps,
    )
    run = tmp_path / "run"
    for _ in range(2):  # once more from the last sound state
        with pytest.raises(TrainingError) as caught:
            train(config, run)
        said = str(caught.value)
        assert re.match(f"{problem} after step 2, in the batch of the videos with the ids ", said), said
        assert f"the checkpoint of step 1 in {run} is kept" in said
        assert steps_in(run / "checkpoints") == [1]
        assert not (run / "export").exists()
        assert not (run / "damaged").exists()
        assert all(np.isfinite(line["loss"]) for line in read_lines(run / "metrics.jsonl"))
    params = load_checkpoint(run).params
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_every_part_of_a_state_is_looked_at(videos: Path, tmp_path: Path) -> None:
    made = job.make_job(recipe(videos), RunDirectory(tmp_path / "run"))
    state = made.initial_state()
    frames = made.place(next(made.batches))["frames"]
    made.batches.close()
    assert why_unsound(made, state, frames) is None
    assert why_unsound(made, state) is None

    def broken(tree: Any, value: float) -> Any:
        return tree | {"classifier": jax.tree.map(lambda leaf: leaf.at[-1].set(value), tree["classifier"])}

    adam = state.optimizer[0]
    for faulty, problem in (
        (state.replace(params=broken(state.params, np.inf)), "one of the weights is not finite"),
        (state.replace(ema=broken(state.ema, np.nan)), "the moving average of a weight is not finite"),
        (
            state.replace(optimizer=(adam._replace(nu=broken(adam.nu, np.inf)), *state.optimizer[1:])),
            "the state of the optimizer is not finite",
        ),
        (
            state.replace(params=jax.tree.map(lambda leaf: leaf + 1e37, state.params)),
            "the model has finite weights but",
        ),
        (
            state.replace(ema=jax.tree.map(lambda leaf: leaf + 1e37, state.ema)),
            "the moving average has finite weights but",
        ),
    ):
        for given in (frames, None):
            assert str(why_unsound(made, faulty, given)).startswith(problem)


def test_a_broken_state_that_an_earlier_version_saved_is_not_gone_on_from(
    finished: tuple[Path, TrainResult, list[int]], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(recipe(videos), run, max_seconds=0).step == 1
    made = job.make_job(recipe(videos), RunDirectory(run))
    with contextlib.closing(Checkpoints(run / "checkpoints", Checkpointing())) as checkpoints:
        restored = checkpoints.restore(made.template)
        assert restored is not None
        state, values = restored
        params = state.params | {"classifier": jax.tree.map(lambda leaf: leaf * np.nan, state.params["classifier"])}
        checkpoints.save(state.replace(step=state.step + 1, params=params), {"data": values["data"] | {"step": 2}})
        checkpoints.wait()
    assert train(recipe(videos), run).finished
    assert (
        "the checkpoint of step 2 is damaged (one of the weights is not finite); it was moved"
        in capsys.readouterr().err
    )
    for name in ("metrics.jsonl", "export/model.safetensors"):
        assert (run / name).read_bytes() == (finished[0] / name).read_bytes()


def test_the_moving_average_after_a_stop(videos: Path, tmp_path: Path) -> None:
    """It goes on from what was saved: by NumPy, from the parameters after each step."""
    config = recipe(videos, checkpoints=Checkpointing(every=1, keep=9), steps=4)
    run = tmp_path / "run"
    for step in (1, 2, 3):
        assert train(config, run, max_seconds=0).step == step
    assert train(config, run).finished
    average = start_from_recipe(config.model, ["class 0", "class 1", "class 2"], config.seed).params
    for step in range(1, 5):
        last = load_checkpoint(run / "checkpoints" / str(step), training_weights="last").params
        average = jax.tree.map(lambda mean, leaf: 0.9 * mean + 0.1 * leaf, average, last)
        found = load_checkpoint(run / "checkpoints" / str(step)).params
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), found, average)
    exported = load_checkpoint(run / "export").params
    jax.tree.map(np.testing.assert_array_equal, exported, found)


def test_a_list_in_another_order_is_refused(videos: Path, tmp_path: Path) -> None:
    lines = [f"{videos}/train/class {label}/{number}.mp4,class {label}\n" for label in range(3) for number in range(2)]
    (tmp_path / "list.csv").write_text("".join(lines))
    data = dataclasses.replace(recipe(videos).data, train=str(tmp_path / "list.csv"), validation=None)
    job.make_job(recipe(videos, data=data), RunDirectory(tmp_path / "run"))
    (tmp_path / "list.csv").write_text("".join(reversed(lines)))
    with pytest.raises(RunError, match=r"the videos of --data\.train are not those .* \(their names, order, labels"):
        job.make_job(recipe(videos, data=data), RunDirectory(tmp_path / "run"))


class LateMetric:
    """A number that a step gives, which notes when it is read."""

    def __init__(self, value: Any, events: list[str], event: str) -> None:
        self._value, self._events, self._event = value, events, event

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        self._events.append(self._event)
        return np.asarray(self._value)


def test_a_step_is_read_when_the_next_is_on_its_way(
    finished: tuple[Path, TrainResult, list[int]], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    compiled_step, save = job.Job.compiled_step, Checkpoints.save

    def recorded_step(self: job.Job) -> Any:
        train_step = compiled_step(self)

        def step(state: Any, batch: Any) -> Any:
            number = int(state.step) + 1
            events.append(f"send {number}")
            state, metrics = train_step(state, batch)
            return state, metrics.replace(loss=LateMetric(metrics.loss, events, f"read {number}"))

        return step

    def recorded_save(self: Checkpoints, state: Any, run: Any) -> None:
        events.append(f"save {int(state.step)}")
        save(self, state, run)

    monkeypatch.setattr(job.Job, "compiled_step", recorded_step)
    monkeypatch.setattr(Checkpoints, "save", recorded_save)
    seen: list[int] = []
    assert train(recipe(videos), tmp_path / "run", observer=lambda step, *_: seen.append(step)).finished
    saved = {4, 8, 9, 12}  # every fourth, and those that are validated: nothing more is sent before they are safe
    for step in range(1, 12):
        ahead = events.index(f"send {step + 1}") < events.index(f"read {step}")
        assert ahead == (step not in saved), events
    for step in saved:
        assert events.index(f"read {step}") + 1 == events.index(f"save {step}"), events
    assert len(events) == 12 + 12 + len(saved)
    assert seen == list(range(1, 13))
    for name in ("metrics.jsonl", "export/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished[0] / name).read_bytes()


@pytest.mark.parametrize(("bad", "kept"), [(3, None), (4, None), (6, 4), (12, 9)])
def test_a_step_that_is_not_finite_is_named_though_the_next_is_on_its_way(
    bad: int,
    kept: int | None,
    finished: tuple[Path, TrainResult, list[int]],
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether a checkpoint is due right after it (4, 12) or not, nothing of it or of its successor is kept."""
    compiled_step, config, run = job.Job.compiled_step, recipe(videos), tmp_path / "run"

    def faulty_step(self: job.Job) -> Any:
        train_step = compiled_step(self)

        def step(state: Any, batch: Any) -> Any:
            state, metrics = train_step(state, batch)
            return state, metrics.replace(loss=float("nan")) if int(state.step) >= bad else metrics

        return step

    with monkeypatch.context() as patch:
        patch.setattr(job.Job, "compiled_step", faulty_step)
        with pytest.raises(TrainingError, match=f"the loss is nan at step {bad}, ") as caught:
            train(config, run)
    batches = job.make_job(config, RunDirectory(run)).batches
    batches.number = bad - 1
    ids = next(batches)["ids"]
    assert f"ids {', '.join(map(str, ids))}; " in str(caught.value)
    assert ("there is no checkpoint yet" if kept is None else f"checkpoint of step {kept} in ") in str(caught.value)
    assert [line["step"] for line in read_lines(run / "metrics.jsonl") if "loss" in line] == list(range(1, bad))
    assert max(steps_in(run / "checkpoints"), default=None) == kept
    assert train(config, run).finished
    for name in ("metrics.jsonl", "export/model.safetensors"):
        assert (run / name).read_bytes() == (finished[0] / name).read_bytes()


def test_directories_that_are_no_runs(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("")
    with pytest.raises(RunError, match="holds other things"):
        train(recipe(videos), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"holiday.txt", ".lock"}
    (tmp_path / "run").mkdir()
    RunDirectory(tmp_path / "run").claim(recipe(videos))
    with pytest.raises(CheckpointError, match="without a checkpoint"):
        load_checkpoint(tmp_path / "run")


def test_every_part_of_a_job_is_worked_out_from_the_recipe(videos: Path, tmp_path: Path) -> None:
    made = job.make_job(recipe(videos, steps=None, epochs=2.5), RunDirectory(tmp_path / "run"))
    assert (made.steps_per_epoch, made.total) == (3.0, round(2.5 * 3))
