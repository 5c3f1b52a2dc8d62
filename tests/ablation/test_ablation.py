"""Ablations: which variants there are, what is run and what is not run again, failures, and the report."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest
from runs import MODEL, recipe, videos, wait_for

from timesformer_jax import TimesformerConfig
from timesformer_jax.ablation import case as ablation_case
from timesformer_jax.ablation import costs as ablation_costs
from timesformer_jax.ablation import plots as ablation_plots
from timesformer_jax.ablation import process as ablation_process
from timesformer_jax.ablation.ablate import Ablation, MotionVideos, ablate
from timesformer_jax.ablation.case import Answer, Case, compute
from timesformer_jax.ablation.costs import program_memory
from timesformer_jax.ablation.plots import CostPoint, cost_curves, cost_figure
from timesformer_jax.ablation.process import in_own_process
from timesformer_jax.ablation.report import write_report
from timesformer_jax.ablation.results import Results, VariantResult
from timesformer_jax.ablation.variants import BASE, variants_of
from timesformer_jax.cli import main
from timesformer_jax.data.config import Augmentation
from timesformer_jax.errors import ConfigError, DataError
from timesformer_jax.model.summary import summarize
from timesformer_jax.training.recipe import RECIPES, ModelOptions, TrainConfig
from timesformer_jax.training.run_directory import RunDirectory, RunError
from timesformer_jax.training.stopping import StopRequest

__all__ = ["videos"]  # a fixture

COST = {
    "parameters": 1000,
    "multiply_adds": 2_500_000,
    "train_clips_per_second": 16.0,
    "train_memory": 3_000_000,
    "inference_clips_per_second": 50.0,
    "inference_memory": 40_000,
    "device": "abacus",
}


class Runner:
    """Answers without computing anything, and remembers what it was asked."""

    def __init__(self, bad: str | None = None, stop_after: int = 10**9) -> None:
        self.cases: list[Case] = []
        self._bad, self._stop_after = bad, stop_after

    def __call__(self, case: Case, stop: StopRequest) -> Answer:
        if len(self.cases) == self._stop_after:
            return Answer()
        self.cases.append(case)
        if case.recipe.model.attention_type == self._bad:
            return Answer(error="there is not enough memory.")
        if case.run is None:
            return Answer(values=COST)
        seed = case.recipe.seed
        return Answer(values={"top1": 0.5 + 0.1 * seed, "videos": 6, "steps": case.recipe.steps, "within_pairs": 0.75})


def ablation(videos: Path, output: Path, **changes: Any) -> Ablation:
    base = recipe(videos)
    base = dataclasses.replace(base, model=dataclasses.replace(base.model, attention_type="divided_space_time"))
    options: dict[str, Any] = {"variants": variants_of(["schemes"], base.model), "seeds": (0, 1)} | changes
    return Ablation(base, output, **options)


def schemes() -> list[str]:
    return [variant.key for variant in variants_of(["schemes"], RECIPES["motion"].model)]


class TestVariants:
    def test_rows_that_are_one_model_share_a_key(self) -> None:
        rows = variants_of(["schemes", "embeddings", "order", "frames", "size"], RECIPES["motion"].model)
        base = [(row.set, row.name) for row in rows if row.key == BASE]
        assert base == [
            ("schemes", "divided space time"),
            ("embeddings", "space time"),
            ("order", "time space"),
            ("frames", "8 frames"),
            ("size", "32 pixels"),
        ]
        assert [row.key for row in rows if row.name == "axial"] == ["attention_type=axial"]
        assert len({row.key for row in rows}) == len(rows) - len(base) + 1 == 5 + 3 + 3 + 3 + 3 - 4
        assert [row.name for row in rows if row.set == "frames"] == ["4 frames", "8 frames", "16 frames"]
        assert [row.name for row in rows if row.set == "size"] == ["32 pixels", "48 pixels", "64 pixels"]
        for row in rows:
            options = row.apply(RECIPES["motion"]).model
            TimesformerConfig.preset(options.architecture, **options.overrides())
            assert all(getattr(options, name) == value for name, value in row.changes.items())

    def test_what_goes_along_with_a_change(self) -> None:
        base = recipe(Path("videos"))
        more, larger = variants_of(["frames", "size"], base.model, frames=[12], sizes=[16])
        assert more.apply(base).model.sampling_rate == 0.5  # 3 frames with a rate of 2 before
        assert more.apply(base).data == base.data
        assert larger.apply(base).data.augmentation.short_side == (18, 24)
        assert larger.apply(base).model.sampling_rate == 2
        segments = dataclasses.replace(base, model=dataclasses.replace(base.model, sampling_rate="segments"))
        assert more.apply(segments).model.sampling_rate == "segments"
        automatic = dataclasses.replace(base, data=dataclasses.replace(base.data, augmentation=Augmentation()))
        assert larger.apply(automatic).data.augmentation.short_side is None

    def test_what_only_a_checkpoint_knows(self) -> None:
        options = ModelOptions(checkpoint="somewhere")
        assert variants_of(["schemes"], options)[0].key == "attention_type=divided_space_time"
        with pytest.raises(ConfigError, match=r"give --model\.num-frames"):
            variants_of(["frames"], options)
        with pytest.raises(ConfigError, match=r"give --model\.num-frames"):
            variants_of(["frames"], options, frames=[4])[0].apply(TrainConfig(model=options))

    @pytest.mark.parametrize("sets", [[], ["size", "size"]])
    def test_sets_must_be_named_once(self, sets: list[Any]) -> None:
        with pytest.raises(ConfigError, match="each set of variants once"):
            variants_of(sets, MODEL)


class TestRunning:
    def test_the_same_budget_and_seeds_for_all(self, videos: Path, tmp_path: Path) -> None:
        runner = Runner()
        results = ablate(ablation(videos, tmp_path / "out"), runner=runner)
        assert results is not None
        count = len(schemes())
        assert [case.run is None for case in runner.cases] == [True] * count + [False] * 2 * count
        trained = runner.cases[count:]
        assert [case.recipe.seed for case in trained] == [0] * count + [1] * count
        assert {case.recipe.steps for case in trained} == {12}
        assert len({case.run for case in trained}) == 2 * count
        assert len({str(dataclasses.replace(case.recipe.model, attention_type=None)) for case in trained}) == 1
        assert {case.recipe.model.attention_type for case in trained[:count]} == {
            row.changes["attention_type"] for row in ablation(videos, tmp_path).variants
        }

    def test_minutes_become_steps_at_the_measured_speed(self, videos: Path, tmp_path: Path) -> None:
        runner = Runner()
        ablate(ablation(videos, tmp_path / "out", minutes=0.5), runner=runner)
        # 16 clips a second in batches of 4: 120 steps in half a minute
        assert {case.recipe.steps for case in runner.cases if case.run} == {120}

    def test_what_is_known_is_not_run_again(self, videos: Path, tmp_path: Path) -> None:
        first = Runner(stop_after=4)
        assert ablate(ablation(videos, tmp_path / "out"), runner=first) is None
        with (tmp_path / "out" / "results.jsonl").open("a") as file:
            file.write('{"variant": "base", "seed": 0, "val')  # killed while writing
        second = Runner()
        assert ablate(ablation(videos, tmp_path / "out"), runner=second) is not None
        assert len(first.cases) + len(second.cases) == 3 * len(schemes())
        lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
        assert len([json.loads(line) for line in lines]) == 3 * len(schemes())
        third = Runner()
        ablate(ablation(videos, tmp_path / "out", seeds=(0, 1, 2)), runner=third)
        assert [case.recipe.seed for case in third.cases] == [2] * len(schemes())

    def test_a_bad_variant_stops_no_other_and_is_tried_again(self, videos: Path, tmp_path: Path) -> None:
        bad = "attention_type=joint_space_time"
        runner = Runner(bad="joint_space_time")
        settings = ablation(videos, tmp_path / "out")
        results = ablate(settings, runner=runner)
        assert results is not None
        assert results.error(bad, (0, 1)) == "there is not enough memory."
        assert len(runner.cases) == 3 * len(schemes()) - 2  # what can't be measured is not trained
        assert all(results.values(key, 1) for key in schemes() if key != bad)
        again = Runner()
        results = ablate(settings, runner=again)
        assert results is not None
        assert len(again.cases) == 3
        assert results.error(bad, (0, 1)) is None

    def test_a_variant_without_videos_of_its_own(self, tmp_path: Path) -> None:
        base = RECIPES["motion"]
        settings = Ablation(
            base,
            tmp_path / "out",
            variants_of(["frames"], base.model, frames=[1, 2, 8]),
            (3,),
            motion=MotionVideos(train=8, test=8),
        )
        runner = Runner()
        results = ablate(settings, runner=runner)
        assert results is not None
        assert "shows no motion" in str(results.error("num_frames=1", (3,)))
        places = [Path(str(case.recipe.data.train)).parent.name for case in runner.cases]
        assert places == ["seed-3-frames-2", "seed-3-frames-8"] * 2
        made = json.loads((tmp_path / "out" / "videos" / places[0] / "motion.json").read_text())
        assert (made["seed"], made["task"]["frames"], made["train"]) == (3, 2, 8)
        assert {case.recipe.model.sampling_rate for case in runner.cases} == {3.0}  # every frame of the files

    def test_directories_of_others(self, videos: Path, tmp_path: Path) -> None:
        settings = ablation(videos, tmp_path / "out")
        with RunDirectory(tmp_path / "out").locked():
            code = f"""
from pathlib import Path
from timesformer_jax.training.run_directory import RunDirectory
with RunDirectory(Path({str(tmp_path / "out")!r})).locked(): pass
"""
            held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            assert RunError.__name__ in held.stderr
        ablate(settings, runner=Runner())
        with pytest.raises(ConfigError, match=r"minutes is 3 here and null there"):
            ablate(dataclasses.replace(settings, minutes=3), runner=Runner())
        other = dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, batch_size=8))
        with pytest.raises(ConfigError, match=r"recipe.batch_size is 8 here and 4 there"):
            ablate(other, runner=Runner())
        again = Runner()
        ablate(dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, log_every=1)), runner=again)
        assert not again.cases
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "letter.txt").touch()
        with pytest.raises(ConfigError, match="other things"):
            ablate(dataclasses.replace(settings, output=tmp_path / "mine"), runner=Runner())


class TestCases:
    @pytest.fixture(autouse=True)
    def brief(self, quick_compile: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ablation_costs, "_SECONDS", 0.0)

    @pytest.mark.slow
    def test_costs(self, videos: Path) -> None:
        config = dataclasses.replace(recipe(videos), accumulation=1)  # less to compile
        found = compute(Case(config, None, ablation_case.Views()))
        assert found.error is None
        assert found.values is not None
        summary = summarize(TimesformerConfig.preset("base-k400", **(MODEL.overrides() | {"num_labels": 3})))
        assert found.values["parameters"] == summary.parameters
        assert found.values["multiply_adds"] == summary.multiply_adds
        # parameters, their average and AdamW's two moments, 4 bytes each, at the least
        assert found.values["train_memory"] > 16 * summary.parameters
        assert found.values["train_memory"] > found.values["inference_memory"] > 4 * summary.parameters
        assert found.values["inference_clips_per_second"] > found.values["train_clips_per_second"] > 0

    @pytest.mark.slow
    def test_learning(self, videos: Path, tmp_path: Path) -> None:
        config = dataclasses.replace(recipe(videos), steps=3)
        case = Case(config, str(tmp_path / "run"), ablation_case.Views(crops=1))
        values = compute(case).values
        assert values is not None
        assert (values["steps"], values["videos"]) == (3, 6)
        assert 0 <= values["top1"] <= 1
        assert "within_pairs" not in values  # these classes are no motions
        assert "validation_top1" not in (tmp_path / "run" / "metrics.jsonl").read_text()
        assert compute(case).values == values

    def test_what_can_not_be_is_a_sentence(self, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = recipe(videos)
        refused = dataclasses.replace(config, model=dataclasses.replace(MODEL, image_size=9))
        answer = compute(Case(refused, None, ablation_case.Views()))
        assert answer.values is None
        assert "patches of height 4 do not divide" in str(answer.error)

        def full(_: object) -> None:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")

        monkeypatch.setattr(ablation_case, "measure_cost", full)
        answer = compute(Case(config, None, ablation_case.Views()))
        assert answer.error == "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."


def test_memory_of_a_program() -> None:
    program = jax.jit(lambda x: x @ x.T, donate_argnums=()).lower(jax.ShapeDtypeStruct((64, 8), "float32")).compile()
    assert program_memory(program) >= 4 * (64 * 8 + 64 * 64)
    donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(jax.ShapeDtypeStruct((64, 8), "float32")).compile()
    assert 4 * 64 * 8 <= program_memory(donated) < 8 * 64 * 8  # the result is in the argument's place


class TestOwnProcess:
    """How a process may end. What it runs is replaced: to import JAX takes seconds."""

    def end(self, monkeypatch: pytest.MonkeyPatch, code: str, *, stopped: bool = False) -> Answer:
        monkeypatch.setattr(ablation_process, "COMMAND", [sys.executable, "-c", code])
        stop = StopRequest()
        stop.made = stopped
        return in_own_process(Case(TrainConfig(), None, ablation_case.Views()), stop)

    def test_it_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        code = """print('{"values": {"top1": 0.5}, "error": null}')"""
        assert self.end(monkeypatch, code) == Answer(values={"top1": 0.5})

    def test_it_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answer = self.end(monkeypatch, "import os; os.kill(os.getpid(), 9)")
        assert answer.error == "its process was killed, for lack of memory most likely."

    def test_it_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "exit code 3" in str(self.end(monkeypatch, "raise SystemExit(3)").error)

    def test_it_is_asked_to_stop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        start = time.monotonic()
        assert self.end(monkeypatch, "import time; time.sleep(60)", stopped=True) == Answer()
        assert time.monotonic() - start < 30


class TestReport:
    @pytest.fixture
    def report(self, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(ablation_plots, "FRAMES", (8,))
        monkeypatch.setattr(ablation_plots, "SIZES", (224,))
        settings = ablation(videos, tmp_path / "out")
        results = ablate(settings, runner=Runner(bad="joint_space_time"))
        assert results is not None
        return write_report(settings, results)

    def test_table(self, report: Path) -> None:
        text = report.read_text()
        assert "| divided space time | 55.0% ± 7.1% | 75.0% ± 0.0% | 1,000 | 2.5 M | 16 | 3 MB | 50 | 40 kB |" in text
        assert "| joint space time | – | – | – | – | – | – | – | – |" in text
        assert "joint space time failed: there is not enough memory." in text
        assert "12 steps of 4 clips. Seeds: 0 1." in text
        assert "on abacus" in text
        for name in ("accuracy-schemes.png", "cost.png"):
            assert f"({name})" in text
            assert (report.parent / name).read_bytes().startswith(b"\x89PNG")

    def test_csv_can_be_read_again(self, report: Path) -> None:
        with (report.parent / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == [field.name for field in dataclasses.fields(VariantResult)]
        assert [row["key"] for row in rows] == schemes()
        first = rows[schemes().index(BASE)]
        assert float(first["accuracy"]) == pytest.approx(0.55)
        assert float(first["accuracy_spread"]) == pytest.approx(0.1 / 2**0.5)  # of a sample of two
        assert {name: float(first[name]) for name in COST if name != "device"} == {
            name: value for name, value in COST.items() if name != "device"
        }
        failed = rows[schemes().index("attention_type=joint_space_time")]
        assert (failed["accuracy"], failed["error"]) == ("", "there is not enough memory.")
        with (report.parent / "cost.csv").open(newline="") as file:
            cost = {row["attention_type"]: int(row["multiply_adds"]) for row in csv.DictReader(file)}
        assert f"{3 * cost['divided_space_time'] / 1e12:.2f}" == "0.59"  # the paper's

    def test_nothing_trained(self, videos: Path, tmp_path: Path) -> None:
        settings = ablation(videos, tmp_path / "out", seeds=())
        results = Results(tmp_path / "results.jsonl")
        results.add(BASE, None, Answer(values=COST))
        row = VariantResult.of(settings.variants[schemes().index(BASE)], (), results)
        assert (row.accuracy, row.seeds, row.parameters) == (None, 0, 1000)


@pytest.mark.slow
def test_cost_against_frames_and_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation_plots, "FRAMES", (8, 96))
    monkeypatch.setattr(ablation_plots, "SIZES", (224, 560))
    points = {(p.attention_type, p.frames, p.size): p.multiply_adds for p in cost_curves()}
    assert len(points) == 3 * len(schemes())
    for frames, size in ((96, 224), (8, 560)):
        growth = {scheme: points[scheme, frames, size] / points[scheme, 8, 224] for scheme, *_ in points}
        tokens = frames / 8 * (size / 224) ** 2
        # Joint attention grows with the square of the tokens; divided with the places and frames apart.
        assert growth["joint_space_time"] > 2 * tokens
        assert tokens * 0.99 < growth["divided_space_time"] < 1.2 * tokens
    figure = cost_figure([CostPoint(*key, value) for key, value in points.items()])
    assert [len(axes.lines) for axes in figure.axes] == [len(schemes())] * 2
    assert list(figure.axes[1].lines[0].get_xdata()) == [8, 96]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["base-k400"], "there are no training videos; give --data.train"),
        (["base-k400", "--data.train", "nowhere"], "give --data.validation"),
        (["base-k400", "--data.train", "nowhere", "--data.validation", "nowhere"], "nowhere"),
        (["motion", "--seeds", "1", "1"], "seeds must be different"),
        (["motion", "--minutes", "0"], "minutes must be above 0"),
        (["motion", "--sets"], "each set of variants once"),
        (["motion", "--train-videos", "9"], "multiple of the 8 classes"),
        (["finetune", "--sets", "frames"], "give --model.num-frames"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", *arguments, "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert reason in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_videos_to_evaluate_on(tmp_path: Path) -> None:
    config = dataclasses.replace(RECIPES["motion"], data=dataclasses.replace(RECIPES["motion"].data, validation="x"))
    with pytest.raises(DataError, match="no training videos"):
        Ablation(config, tmp_path, variants_of(["size"], config.model))


@pytest.mark.slow
def test_the_command_killed_and_started_again(tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = ["--steps", "12", "--train-videos", "32", "--test-videos", "16", "--seeds", "0", "--output", str(output)]
    # 30 pixels: patches of 8 do not divide that
    arguments = ["motion", "--sets", "size", "--sizes", "30", "16", *options]
    command = [sys.executable, "-m", "timesformer_jax.cli", "ablate", *arguments, "--checkpoints.every", "1"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    run = output / "runs" / "image_size=16-seed-0"
    process = start()
    assert wait_for(process, lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size > 0)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # its child holds the pipes: it has ended, too
    assert not (run / "export").exists()

    again = start()
    said = again.communicate(timeout=300)[1]
    assert again.returncode == 1, said
    assert "Traceback" not in said
    assert "going on after step" in said
    assert "what it costs" in said  # of the variant that failed
    lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert [(line["variant"], line["seed"]) for line in lines if "values" in line] == [
        ("image_size=16", None),
        ("image_size=16", 0),
    ]
    assert lines[-1]["values"]["within_pairs"] >= 0
    report = (output / "report.md").read_text()
    assert "30 pixels failed: patch_size" in report
    assert f"{lines[-1]['values']['top1']:.1%}" in report
