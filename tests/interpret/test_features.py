"""Embeddings of videos: what they are, and how they get into one file."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from reference import run_flax
from safetensors.numpy import load_file, save_file
from tiny_flax import BATCH, COLUMNS, ROWS, clips, tiny_flax
from videos import moving_pictures

from timesformer_jax.cli import main
from timesformer_jax.errors import TimesformerError
from timesformer_jax.interpret.feature_files import read_features
from timesformer_jax.interpret.features import embed_clips, extract_features
from timesformer_jax.interpret.video_encoder import VideoEncoder

pytestmark = pytest.mark.usefixtures("quick_compile")

KINDS = ("cls", "frames", "patches")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    model, params = tiny_flax("divided_space_time", dtype=np.float32)
    model.save_pretrained(directory, params)
    return directory


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> VideoEncoder:
    return VideoEncoder.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        (directory / f"video {seed}").mkdir()
        for i, frame in enumerate(moving_pictures(4, 24, 40, seed)):
            Image.fromarray(frame).save(directory / f"video {seed}" / f"{i}.png")
    return sorted(directory.iterdir())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only"])
def test_embeddings_are_the_models_last_states(attention_type: str) -> None:
    model, params = tiny_flax(attention_type)
    frames = 5
    embeddings = embed_clips(model, params, clips(frames))
    state = run_flax(model, params, clips(frames)).hidden_states[-1]
    if attention_type == "space_only":  # (b, t, 1 + n, d), one CLS a frame
        cls, patches = np.asarray(state)[:, :, 0].mean(axis=1), np.asarray(state)[:, :, 1:]
    else:  # CLS, then patch by patch, frame by frame
        cls, patches = np.asarray(state)[:, 0], np.asarray(state)[:, 1:].reshape(BATCH, ROWS * COLUMNS, frames, -1)
        patches = patches.swapaxes(1, 2)
    scale, bias = (np.asarray(params["timesformer"]["layernorm"][name]) for name in ("scale", "bias"))

    def norm(tokens: np.ndarray) -> np.ndarray:
        centred = tokens - tokens.mean(axis=-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * scale + bias

    np.testing.assert_allclose(embeddings["cls"], norm(cls), rtol=1e-9)
    expected = norm(patches)
    np.testing.assert_allclose(embeddings["patches"], expected.reshape(BATCH, frames, ROWS, COLUMNS, -1), rtol=1e-9)
    np.testing.assert_allclose(embeddings["frames"], expected.mean(axis=2), rtol=1e-9)


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "parquet"])
def test_every_format_holds_the_same(suffix: str, encoder: VideoEncoder, videos: list[Path], tmp_path: Path) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    told: list[int] = []
    report = extract_features(
        encoder, [videos[0], bad, *videos[1:]], tmp_path / f"f.{suffix}", kinds=KINDS, batch_size=2, done=told.append
    )
    assert (report.written, report.resumed, list(report.failures)) == (3, 0, [str(bad)])
    assert sum(told) == 4
    features = read_features(tmp_path / f"f.{suffix}")
    assert features.videos == tuple(map(str, videos))
    assert "bad.mp4" in features.failures[str(bad)]
    assert features.settings["kinds"] == list(KINDS)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.mp4", f"f.{suffix}"}
    for i, video in enumerate(videos):
        expected = embed_clips(encoder.model, encoder.params, encoder.pixel_values(encoder.read(video)[None]))
        for kind in KINDS:
            # A batch of two may round otherwise than one clip: units in the last place of float32.
            np.testing.assert_allclose(features.embeddings[kind][i], expected[kind][0], rtol=1e-5, atol=1e-5)


def test_an_interrupted_run_goes_on_where_it_was(encoder: VideoEncoder, videos: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"

    def interrupt_after_the_second(done: int, seen: list[int] = []) -> None:  # noqa: B006
        seen.append(done)
        if sum(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(encoder, videos, file, done=interrupt_after_the_second)
    assert not file.exists()
    finished = list((tmp_path / "f.safetensors.unfinished").glob("*.safetensors"))
    assert len(finished) == 2
    mark = load_file(finished[0])
    mark["cls"] += 1000  # to be found again: what is finished is not computed anew
    save_file(mark, finished[0])

    with pytest.raises(TimesformerError, match="another model or other settings"):
        extract_features(encoder, videos, file, kinds=("cls",))
    other = dataclasses.replace(encoder, params=jax.tree.map(lambda leaf: leaf + 1, encoder.params))
    with pytest.raises(TimesformerError, match="another model or other settings"):
        extract_features(other, videos, file)
    finished[1].write_bytes(finished[1].read_bytes()[:-7])  # the machine went down while it was written
    report = extract_features(encoder, videos, file)
    assert (report.written, report.resumed) == (3, 1)
    assert (read_features(file).embeddings["cls"].max(axis=1) > 900).sum() == 1
    assert list(tmp_path.iterdir()) == [file]

    with pytest.raises(TimesformerError, match="exists already"):
        extract_features(encoder, videos, file)
    assert extract_features(encoder, videos, file, overwrite=True).resumed == 0
    assert read_features(file).embeddings["cls"].max() < 900


def test_rows_of_one_file_have_one_shape(encoder: VideoEncoder, videos: list[Path], tmp_path: Path) -> None:
    uncut = dataclasses.replace(encoder, processor=dataclasses.replace(encoder.processor, do_center_crop=False))
    with pytest.raises(TimesformerError, match="pass --size"):
        extract_features(uncut, videos, tmp_path / "f.npz")
    assert not list(tmp_path.iterdir())


def test_a_changed_video_is_computed_anew(encoder: VideoEncoder, videos: list[Path], tmp_path: Path) -> None:
    video = tmp_path / "video"
    video.mkdir()
    Image.fromarray(moving_pictures(1)[0]).save(video / "0.png")

    def interrupt(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(encoder, [video, *videos], tmp_path / "f.npz", done=interrupt)
    Image.fromarray(moving_pictures(1, seed=1)[0]).save(video / "1.png")
    os.utime(video, (1, 1))  # whatever the clock's resolution
    assert extract_features(encoder, [video, *videos], tmp_path / "f.npz").resumed == 0


def test_the_command(checkpoint: Path, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing, missing, file = tmp_path / "list.txt", tmp_path / "missing.mp4", tmp_path / "f.npz"
    listing.write_text(f"{videos[1]}\n\n{missing}\n")
    model = ["--model", str(checkpoint)]
    arguments = ["features", str(videos[0]), "--listing", str(listing), *model, "--out", str(file)]
    assert main([*arguments, "--kinds", "cls", "--storage", "float16"]) == 1
    printed = capsys.readouterr()
    assert printed.out.strip() == str(file)
    assert "1 of 3 videos" in printed.err
    assert "missing.mp4" in printed.err
    features = read_features(file)
    assert features.videos == tuple(map(str, videos[:2]))
    assert features.embeddings["cls"].shape == (2, 24)
    assert features.embeddings["cls"].dtype == np.float16

    directory = tmp_path / "directory.npz"
    directory.mkdir()
    for arguments, reason in (
        ([str(videos[0]), "--out", str(file), *model], "exists already"),
        ([str(videos[0]), "--out", str(tmp_path / "f.txt"), *model], "must end in"),
        ([str(videos[0]), "--out", str(directory), "--overwrite", *model], "is a directory"),
        (["--listing", str(missing), "--out", str(tmp_path / "g.npz"), *model], "No such file"),
        (["--out", str(tmp_path / "g.npz"), *model], "no video is given"),
        ([str(missing), "--out", str(tmp_path / "g.npz"), *model], "missing.mp4"),
        ([str(videos[0]), "--out", str(tmp_path / "g.npz"), "--size", "9", "8", *model], "height of 9"),
    ):
        assert main(["features", *arguments]) == 2
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "g.npz").exists()


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TimesformerError, match="pip install pyarrow"):
        read_features(tmp_path / "f.parquet")


@pytest.mark.parametrize("name", ["f.npz", "f.safetensors", "f.txt", "f.parquet"])
def test_files_that_hold_something_else(name: str, tmp_path: Path) -> None:
    if name == "f.parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text("something else, long enough to be a header")
    with pytest.raises(TimesformerError, match=name.replace(".", r"\.")):
        read_features(tmp_path / name)


@pytest.mark.slow
def test_a_killed_command_goes_on(checkpoint: Path, videos: list[Path], tmp_path: Path) -> None:
    many: list[Any] = [tmp_path / f"video {i}" for i in range(200)]
    for path in many:
        path.symlink_to(videos[0])
    file = tmp_path / "f.npz"
    command = [Path(sys.executable).parent / "timesformer", "features", *many, "--model", checkpoint, "--out", file]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    unfinished = tmp_path / "f.npz.unfinished"
    while len(list(unfinished.glob("*.safetensors"))) < 5 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = len(list(unfinished.glob("*.safetensors")))
    again = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    assert f"{finished} videos were finished by an earlier run" in again.stderr
    assert len(read_features(file).videos) == 200
    assert not unfinished.exists()
