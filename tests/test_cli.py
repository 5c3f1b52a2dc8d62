"""The `timesformer` command: tables for people, JSON for programs, one sentence and an exit code for errors."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch import torch
from reference import tiny_reference
from videos import moving_pictures, write_video

from timesformer_jax import VideoClassifier, cli
from timesformer_jax.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    names = {i: f"class [{i}]" for i in range(7)}
    reference = tiny_reference(dtype=torch.float32, id2label=names, label2id={v: k for k, v in names.items()})
    reference.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("videos")
    paths = [directory / f"{i}.mp4" for i in range(2)]
    for seed, path in enumerate(paths):
        write_video(path, moving_pictures(40, seed=seed))
    return paths


def test_a_table_for_people(model: Path, videos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", *map(str, videos), "--model", str(model), "--top-k", "2"]) == 0
    printed = capsys.readouterr()
    expected = VideoClassifier.from_pretrained(model)(videos, top_k=2)
    for video, predictions in zip(videos, expected, strict=True):
        assert str(video) in printed.out
        for p in predictions:  # type: ignore[union-attr]
            assert f"│ {p.label} │ {p.score:.4f} │" in printed.out
    assert "evenly" in printed.err


def test_json_for_programs(model: Path, videos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", *map(str, videos), "--model", str(model), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["video"] for line in lines] == [str(video) for video in videos]
    assert [len(line["predictions"]) for line in lines] == [5, 5]
    assert lines[0]["predictions"][0].keys() == {"label", "score", "index", "logit"}


def test_one_bad_video_among_twenty(
    model: Path, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    arguments = [*[str(videos[i % 2]) for i in range(10)], str(bad), *[str(videos[i % 2]) for i in range(9)]]
    assert main(["classify", *arguments, "--model", str(model), "--json"]) == 1
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert ["error" in line for line in lines] == [i == 10 for i in range(20)]
    assert "bad.mp4" in lines[10]["error"]
    assert "1 of 20" in printed.err


def test_exit_codes_and_single_sentences(model: Path, videos: list[Path], tmp_path: Path) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        command = [Path(sys.executable).parent / "timesformer", "classify", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Traceback" not in result.stderr
        return result.returncode, result.stderr

    missing = tmp_path / "missing.mp4"
    code, text = run(missing, "--model", model)
    assert (code, str(missing) in text) == (2, True)
    code, text = run(videos[0], "--model", tmp_path / "nothing")
    assert (code, text.splitlines()[-1].startswith("error: "), "nothing" in text) == (2, True, True)
    code, text = run("--model", model)
    assert (code, "no video" in text) == (2, True)
    code, text = run(videos[0], "--model", model, "--top-k", 0)
    assert (code, "--top-k" in text) == (2, True)
    code, text = run(videos[0])
    assert (code, "--model" in text) == (2, True)


def test_preprocessing_of_a_size_that_patches_do_not_divide(
    model: Path, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where frames are not cut, a size that fits may come beside one that does not: the first gets its answer."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(model / name)
    (tmp_path / "preprocessor_config.json").write_text('{"do_resize": false, "do_center_crop": false}')
    write_video(tmp_path / "odd.mp4", moving_pictures(10, 18, 24))
    write_video(tmp_path / "even.mp4", moving_pictures(10, 16, 24))
    arguments = [str(tmp_path / "odd.mp4"), str(tmp_path / "even.mp4"), "--model", str(tmp_path), "--json"]
    assert main(["classify", *arguments]) == 1
    printed = capsys.readouterr()
    odd, even = (json.loads(line) for line in printed.out.splitlines())
    assert "odd.mp4" in odd["error"]
    assert "height 18, which patches of 4 do not divide" in odd["error"]
    assert len(even["predictions"]) == 5
    assert "1 of 2" in printed.err


def test_windows_of_a_whole_video(
    model: Path, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["classify", *map(str, videos), "--model", str(model), "--windows", "--seconds", "0.5"]
    assert main([*arguments, "--overlap", "0.5", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = VideoClassifier.from_pretrained(model).windows(videos[1], overlap=0.5, seconds=0.5)
    assert [line["video"] for line in lines] == [str(video) for video in videos]
    assert [w["start"] for w in lines[1]["windows"]] == pytest.approx([w.start for w in expected.windows], abs=1e-3)
    found = [w["predictions"][0]["logit"] for w in lines[1]["windows"]]
    assert found == pytest.approx([w.predictions[0].logit for w in expected.windows], rel=1e-5)
    assert lines[1]["predictions"][0]["logit"] == pytest.approx(expected.predictions[0].logit, rel=1e-5)

    (tmp_path / "bad.mp4").write_text("no video")
    assert main([arguments[0], str(tmp_path / "bad.mp4"), *arguments[1:]]) == 1
    printed = capsys.readouterr()
    assert "│ 0.5      │ 1.0    │" in printed.out
    assert "the whole video" in printed.out
    assert "bad.mp4" in printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--overlap", "0.5"], "--windows"),
        (["--windows", "--clips", "2"], "--clips"),
        (["--windows", "--seconds", "1", "--overlap", "1"], "overlap"),
        (["--batch-size", "0"], "--batch-size"),
        (["--windows"], "seconds"),
    ],
)
def test_options_that_make_no_sense(
    options: list[str], message: str, model: Path, videos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(videos[0]), "--model", str(model), *options]) == 2
    assert message in capsys.readouterr().err


def test_results_do_not_go_to_urls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where a folder called "gs:" would be made
    assert main(["motion", "gs://bucket/motion", "--train", "8", "--test", "8"]) == 2
    assert "mounted file system" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_dtype(model: Path, videos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    logits = {}
    for dtype in ("float32", "bfloat16"):
        assert main(["classify", str(videos[0]), "--model", str(model), "--json", "--dtype", dtype]) == 0
        predictions = json.loads(capsys.readouterr().out)["predictions"]
        logits[dtype] = {p["index"]: p["logit"] for p in predictions}
    common = logits["float32"].keys() & logits["bfloat16"].keys()
    assert any(logits["float32"][i] != logits["bfloat16"][i] for i in common)


@pytest.mark.slow
def test_the_readmes_first_command(tmp_path: Path) -> None:
    timesformer = str(Path(sys.executable).parent / "timesformer")
    made = subprocess.run([timesformer, "sample", "try"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "random" in made.stderr
    command = made.stdout.split()
    assert command[0] == "timesformer"
    result = subprocess.run([timesformer, *command[1:]], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.count("LABEL_") == 5
    assert "the middle 8 x 32 frames" in result.stderr
    again = subprocess.run([timesformer, "sample", "try"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in cli.COMMANDS)], ids=" ".join
)
def test_help_does_not_wait_for_jax(arguments: list[str]) -> None:
    code = (
        "import sys; from timesformer_jax.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "print([name for name in ('jax', 'flax', 'optax', 'orbax', 'torch', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    for expected in cli.COMMANDS if arguments == ["--help"] else arguments[:-1]:
        assert expected in result.stdout


def test_options_of_every_command_come_before_or_after_its_name(tmp_path: Path) -> None:
    for words in (["--compilation-cache", "x", "sample", "y"], ["sample", "y", "--compilation-cache", "x"]):
        command = cli.parse_command(words)
        assert (type(command).__name__, command.directory, command.compilation_cache) == (
            "Sample",
            Path("y"),
            Path("x"),
        )


@pytest.mark.parametrize("words", [["trian", "motion"], ["--compilation-cache", "x", "trian", "sample"]], ids=" ".join)
def test_a_misspelt_command_is_not_passed_over(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the next word that is a command would be run, with the misspelt one as the folder to write."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.parse_command(words)
    assert stopped.value.code == 2
    assert "trian" in capsys.readouterr().err


SCRIPTS = Path(__file__).parents[1] / "convert"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "timesformer_jax.cli", "classify", "--help"],
        ["-m", "timesformer_jax.cli", "--version"],
        ["-m", "timesformer_jax.cli", "inspect", "MODEL"],
        [str(SCRIPTS / "convert_hf_to_flax.py"), "--help"],
    ],
    ids=["help", "version", "inspect", "convert"],
)
def test_a_reader_that_has_enough_ends_a_command_quietly(arguments: list[str], unbuffered: str, model: Path) -> None:
    """`timesformer classify --help | head -2`, for one."""
    command = [sys.executable, *(str(model) if argument == "MODEL" else argument for argument in arguments)]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")


def test_what_foreign_threads_raise_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    cli.hush_foreign_threads.cache_clear()
    cli.hush_foreign_threads()
    of_a_destructor, of_none = SimpleNamespace(object=print), SimpleNamespace(object=None)
    for unraisable in (of_none, of_a_destructor):
        thread = threading.Thread(target=sys.unraisablehook, args=(unraisable,))
        thread.start()
        thread.join()
    assert reported == [of_a_destructor]
    sys.unraisablehook(of_none)  # pyright: ignore[reportArgumentType]
    assert reported == [of_a_destructor, of_none]
    cli.hush_foreign_threads.cache_clear()


@pytest.mark.parametrize("name", ["-clip.mp4", "--film.mkv", "-v"])
def test_a_file_whose_name_begins_with_a_dash(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["classify", name, "--model", "nowhere"])
    assert stopped.value.code == 2
    assert f"error: {name} begins with a dash, as options do; write ./{name} for the file." in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--windows", "--seconds", "0.5"]])
def test_a_video_stream_is_chosen(
    options: list[str], model: Path, videos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["classify", str(videos[0]), "--model", str(model), "--json", *options]
    assert main(command) == 0
    marked = capsys.readouterr().out
    assert main([*command, "--video-stream", "0"]) == 0
    assert capsys.readouterr().out == marked
    assert main([*command, "--video-stream", "1"]) == 2
    assert "0.mp4 has no video stream 1 that can be decoded, but 0." in capsys.readouterr().err
