"""Evaluation: every video once, views averaged, numbers that can be checked by hand, and going on after a stop."""

import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import jax
import numpy as np
import pytest
from counted_reads import reads
from PIL import Image
from reference import TINY
from runs import videos

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, VideoProcessor
from timesformer_jax.cli import main
from timesformer_jax.data.batches import EvaluationBatches
from timesformer_jax.data.config import ClipShape, DataConfig, Views
from timesformer_jax.data.sources import read_videos
from timesformer_jax.errors import CheckpointError, ConfigError, DataError
from timesformer_jax.evaluation.evaluate import evaluate
from timesformer_jax.evaluation.metrics import Evaluation, VideoResult
from timesformer_jax.evaluation.prediction import make_predict
from timesformer_jax.evaluation.recorder import Recorder

__all__ = ["reads", "videos"]  # fixtures

CLASSES = ("class 0", "class 1", "class 2")


def result(label: int, *top: int) -> VideoResult:
    return VideoResult(0, label, top, tuple(map(float, range(len(top), 0, -1))))


def test_the_numbers() -> None:
    found = Evaluation.of(
        ("a", "b", "c", "d", "e", "f", "unseen"),
        [result(0, 0, 1, 2, 3, 4), result(0, 5, 4, 3, 2, 1), result(0, 1, 0, 2, 3, 4), result(1, 1, 2), result(2)],
    )
    assert (found.videos, found.undecodable) == (4, 1)
    assert found.top1 == 2 / 4
    assert found.top5 == 3 / 4
    assert found.mean_class_accuracy == pytest.approx((1 / 3 + 1) / 2)
    np.testing.assert_array_equal(found.confusion[0], [1, 1, 0, 0, 0, 1, 0])
    assert np.isnan(found.class_accuracy[6])
    assert Evaluation.of(("a", "b"), []).summary() == dict.fromkeys(found.summary(), 0)


def test_a_video_without_an_answer_counts_as_wrong() -> None:
    found = Evaluation.of(
        ("a", "b"),
        [result(0, 0, 1), VideoResult(1, 0, (), (), unanswered=True), VideoResult(2, 1, (), (), unanswered=True)],
    )
    assert (found.videos, found.undecodable, found.unanswered.tolist()) == (3, 0, [1, 1])
    assert (found.top1, found.top5, found.mean_class_accuracy) == (1 / 3, 1 / 3, 0.25)
    assert found.confusion.tolist() == [[1, 0], [0, 0]]
    assert found.summary()["unanswered"] == 2


def test_many_classes_take_little_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = tuple(f"class {i}" for i in range(60_000))
    tracemalloc.start()
    found = Evaluation.of(classes, [result(59_999, 7, 59_999), result(3, 3)])
    recorder = Recorder(tmp_path / "out", {}, str)
    recorder.resume(1)
    recorder.write(found)
    recorder.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6  # the matrix would take 28.8 GB
    assert (found.top1, found.top5, found.mean_class_accuracy) == (0.5, 1.0, 0.5)
    assert "60,000 classes are too many for a picture of the confusion: see confusion.csv" in capsys.readouterr().err
    assert not (tmp_path / "out" / "confusion.png").exists()
    assert (tmp_path / "out" / "confusion.csv").read_text().split("\n")[1:] == [
        *("class 3,class 3,1", "class 59999,class 7,1", "")
    ]
    with pytest.raises(
        DataError, match=r"the confusion matrix of 60,000 classes would take 26.8 GiB; Evaluation.answers"
    ):
        found.confusion  # noqa: B018


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    sizes = TINY | {
        "num_labels": None,
        "num_hidden_layers": 1,
        "initializer_range": 0.3,
        "attention_type": "space_only",
    }
    config = TimesformerConfig(**sizes, sampling_rate=1, id2label=dict(enumerate(reversed(CLASSES))))
    model = TimesformerForVideoClassification(config)
    params: Any = model.init(jax.random.key(0), np.zeros((1, 5, 12, 12, 3), np.float32))["params"]
    model.save_pretrained(directory, params, processor=VideoProcessor(size=12, crop_size=12))
    return directory


def data_of(videos: Path) -> DataConfig:
    return DataConfig(validation=str(videos / "validation"), workers=0)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_views_are_averaged_and_every_video_counted(
    checkpoint: Path, videos: Path, tmp_path: Path, average: Any
) -> None:
    views = Views(clips=2, crops=3, average=average)
    found = evaluate(checkpoint, data_of(videos), views=views, batch_size=4, output=tmp_path / "out")  # 6 videos
    assert found.videos == 6
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(6))

    model, params = TimesformerForVideoClassification.from_pretrained(checkpoint)
    processor = VideoProcessor.from_pretrained(checkpoint)
    listed, clip = read_videos(str(videos / "validation")), ClipShape(5, 12, 12, 1)
    batches = EvaluationBatches(listed, data_of(videos), clip=clip, batch_size=1, views=views)
    for line, batch in zip(lines, batches, strict=True):
        logits = model.apply({"params": params}, processor.rescale_and_normalize(batch["frames"][0])).logits
        scores = logits if average == "logits" else jax.nn.softmax(logits)
        mean = np.asarray(scores.mean(axis=0))
        assert line["top"] == np.argsort(-mean).tolist()
        np.testing.assert_allclose(line["scores"], np.sort(mean)[::-1], atol=1e-5)
        # The model's classes are the data's in reverse.
        assert line["label"] == 2 - batch["labels"][0]
    batches.close()


def test_one_view_at_a_time_gives_what_all_give(checkpoint: Path) -> None:
    model, params = TimesformerForVideoClassification.from_pretrained(checkpoint)
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 12, 12, 3), dtype=np.uint8)
    predict = make_predict(model, VideoProcessor(size=12, crop_size=12))
    alone = np.mean([predict(params, frames[:, i : i + 1]) for i in range(3)], axis=0)
    np.testing.assert_allclose(predict(params, frames), alone, atol=1e-5)


def test_scores_that_are_not_finite_are_no_answer(
    checkpoint: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(*arguments: Any) -> Any:
        predict = make_predict(*arguments)
        return lambda params, frames: predict(params, frames).at[0, 2].set(np.nan)  # one class of one video in two

    arguments = ["evaluate", str(checkpoint), "--data.validation", str(videos / "validation"), "--data.workers", "0"]
    arguments += ["--batch-size", "2", "--crops", "1", "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("timesformer_jax.evaluation.evaluate.make_predict", make)
        assert main(arguments) == 0
    printed, said = capsys.readouterr()
    assert "videos               6\nunanswered           3\n" in printed
    assert " ".join(said.split()).count("0.mp4 are not finite (NaN): such videos are counted as unanswered") == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["unanswered"] for line in lines] == [True, False] * 3
    assert [(line["top"], line["scores"]) for line in lines[::2]] == [([], [])] * 3
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["videos"], results["unanswered"], results["undecodable"]) == (6, 3, 0)
    assert results["top1"] == sum(line["top"][0] == line["label"] for line in lines[1::2]) / 6
    table = [line.split(",") for line in (tmp_path / "out" / "confusion.csv").read_text().splitlines()[1:]]
    assert [(row[0], row[2]) for row in table if not row[1]] == [(name, "1") for name in reversed(CLASSES)]
    assert [line.split(",")[1] for line in (tmp_path / "out" / "classes.csv").read_text().splitlines()[1:]] == ["2"] * 3

    # What an earlier version has noted: NaN among the numbers, and no word of unanswered videos.
    old = [json.dumps(line | {"top": [0, 1, 2], "scores": [float("nan")] * 3}) for line in lines]
    text = "".join(line.replace(', "unanswered": true', "").replace(', "unanswered": false', "") + "\n" for line in old)
    (tmp_path / "out" / "predictions.jsonl").write_text(text)
    assert main(arguments) == 2
    assert "not finite (NaN) for each of the 6 videos" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_a_model_without_any_finite_score(
    checkpoint: Path, videos: Path, tmp_path: Path, average: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model, params = TimesformerForVideoClassification.from_pretrained(checkpoint)
    head = {"kernel": jax.numpy.sign(params["classifier"]["kernel"]) * 3e38, "bias": params["classifier"]["bias"]}
    huge = params | {"classifier": head}
    model.save_pretrained(tmp_path / "huge", huge, processor=VideoProcessor.from_pretrained(checkpoint))
    with pytest.raises(
        CheckpointError, match=r"huge gives scores that are not finite \(NaN\) for each of the 6 videos"
    ):
        evaluate(tmp_path / "huge", data_of(videos), views=Views(average=average), output=tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()

    video = str(videos / "validation" / "class 0" / "0.mp4")
    for options in ([], ["--clips", "2"], ["--windows"]) if average == "logits" else ():
        assert main(["classify", video, "--model", str(tmp_path / "huge"), *options]) == 2
        printed, said = capsys.readouterr()
        assert "class 0" not in printed
        assert "0.mp4 are not finite (NaN): its weights are broken" in " ".join(said.split())


def test_videos_are_named_and_those_that_can_not_be_decoded_listed(
    checkpoint: Path, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_text("404")
    names = ["class 0/0.mp4", str(tmp_path / "broken.mp4"), "class 2/1.mp4"]
    (tmp_path / "list.csv").write_text("".join(f"{name},class {i}\n" for i, name in enumerate(names)))
    data = DataConfig(validation=str(tmp_path / "list.csv"), root=str(videos / "validation"), workers=0)
    found = evaluate(checkpoint, data, views=Views(crops=1), batch_size=2, output=tmp_path / "out")
    assert (found.videos, found.undecodable) == (2, 1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [(line["id"], line["video"], bool(line["top"])) for line in lines] == [
        *((0, names[0], True), (1, names[1], False), (2, names[2], True))
    ]
    listed = (tmp_path / "out" / "bad_videos.txt").read_text()
    assert listed.startswith(f"{names[1]}\t")
    assert listed.count("\n") == 1


def test_a_list_is_read_once(checkpoint: Path, videos: Path, reads: Counter[str]) -> None:
    for split in ("train", "validation"):
        lines = "".join(f"{videos}/{split}/{name}/0.mp4,{name}\n" for name in CLASSES)
        fsspec.filesystem("memory").pipe(f"/once/{split}.csv", lines.encode())
    sources = {split: f"memory://once/{split}.csv" for split in ("train", "validation")}
    for train in (None, sources["train"]):  # which only says what the classes are
        reads.clear()
        data = DataConfig(train=train, validation=sources["validation"], workers=0)
        assert evaluate(checkpoint, data, views=Views(crops=1)).videos == 3
        assert reads == {"/once/validation.csv": 1} | ({"/once/train.csv": 1} if train else {})


def test_an_evaluation_goes_on_where_it_stopped(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(checkpoint), "--data.validation", str(videos / "validation"), "--data.workers", "0"]
    arguments += ["--batch-size", "2", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "videos               6\n" in printed
    results = (tmp_path / "out" / "results.json").read_text()
    predictions = tmp_path / "out" / "predictions.jsonl"
    whole = predictions.read_text()
    assert json.loads(results)["videos"] == 6
    assert (tmp_path / "out" / "classes.csv").read_text().splitlines()[0] == "class,videos,top1,top5"
    assert len((tmp_path / "out" / "classes.csv").read_text().splitlines()) == 4
    with Image.open(tmp_path / "out" / "confusion.png") as picture:
        assert min(picture.size) > 200

    # As a killed process leaves it: a batch whole, one in part, a line half written.
    lines = whole.splitlines(keepends=True)
    changed = json.dumps(json.loads(lines[0]) | {"top": [0, 1, 2]}) + "\n"
    predictions.write_text(changed + "".join(lines[1:3]) + lines[3][:20])
    assert main(arguments) == 0
    assert predictions.read_text() == changed + "".join(lines[1:])  # the first was not done again

    # Nor are those of another model, or of other videos: both may have changed under their names.
    config, weights = checkpoint / "config.json", checkpoint / "model.safetensors"
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"layer_norm_eps": 1e-5}))
    assert main(arguments) == 2
    assert "another evaluation: model is" in capsys.readouterr().err
    config.write_text(before)
    trained = weights.read_bytes()
    weights.write_bytes(trained[:-4] + np.float32(0.5).tobytes())
    assert main(arguments) == 2
    assert "another evaluation: model is" in capsys.readouterr().err
    weights.write_bytes(trained)
    with pytest.raises(ConfigError, match="another evaluation: videos is"):
        evaluate(checkpoint, DataConfig(validation=str(videos / "train"), workers=0), output=tmp_path / "out")

    assert main([*arguments, "--batch-size", "0"]) == 2
    assert "batch_size is 0: it must be a whole number, 1 or more." in capsys.readouterr().err
    assert main([*arguments, "--crops", "1"]) == 2
    assert "crops" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="another evaluation"):
        evaluate(checkpoint, data_of(videos), views=Views(average="probabilities"), output=tmp_path / "out")
    with pytest.raises(DataError, match=r"--data\.validation"):
        evaluate(checkpoint, DataConfig())
