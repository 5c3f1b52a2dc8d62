"""Folders with several series of pictures in training, evaluation and packing."""

import dataclasses
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from videos import moving_pictures

from timesformer_jax.cli import main
from timesformer_jax.data.config import ClipShape, DataConfig, Views
from timesformer_jax.data.samples import EvaluationSamples, TrainingSamples
from timesformer_jax.data.sources import open_data, read_videos
from timesformer_jax.data.videos import Videos
from timesformer_jax.errors import ConfigError, DataError, VideoError
from timesformer_jax.video.reading import read_by_rule

FRAMES = moving_pictures(8, 16, 20)


def make(folder: Path, *, frames: str) -> Path:
    """A list of two folders, each with frames and two components of flow."""
    for name, label in (("a", 0), ("b", 1)):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(FRAMES[i] + label).save(folder / name / frames.format(i + 1))
            Image.fromarray(255 - FRAMES[i]).save(folder / name / f"x_{i + 1:05d}.png")
            Image.fromarray(FRAMES[i] // 2).save(folder / name / f"y_{i + 1:05d}.png")
    (folder / "list.txt").write_text("a 0\nb 1\n")
    return folder / "list.txt"


def frames_of(videos: Videos, index: int = 0) -> np.ndarray:
    return read_by_rule(videos.open(index), lambda total, _: np.arange(total))


def samples(videos: Videos, tmp_path: Path) -> tuple[TrainingSamples, EvaluationSamples]:
    config, clip = DataConfig(max_bad_fraction=0.0), ClipShape(3, 8, 8, 2)
    return (
        TrainingSamples(videos, config, clip, 0, tmp_path / "bad"),
        EvaluationSamples(videos, clip, Views(), None),
    )


def test_img_is_meant_without_a_template(tmp_path: Path) -> None:
    videos = read_videos(str(make(tmp_path, frames="img_{:05d}.png")))
    np.testing.assert_array_equal(frames_of(videos), FRAMES)
    np.testing.assert_array_equal(frames_of(videos, 1), FRAMES + 1)
    training, evaluation = samples(videos, tmp_path)
    assert training[0]["frames"].shape == (3, 8, 8, 3)
    assert evaluation[1]["valid"]


def test_what_can_not_be_told_is_a_bad_video(tmp_path: Path) -> None:
    videos = read_videos(str(make(tmp_path, frames="view_{:05d}.png")))
    training, evaluation = samples(videos, tmp_path)
    with pytest.raises(VideoError, match="several series of pictures: view_"):
        frames_of(videos)
    with pytest.raises(DataError, match="bad"):
        training[0]
    assert "several series of pictures" in (tmp_path / "bad").read_text()
    assert not evaluation[0]["valid"]


def test_a_template_in_training_and_evaluation(tmp_path: Path) -> None:
    source = str(make(tmp_path / "v", frames="view_{:05d}.png"))
    plain = DataConfig(train=source, validation=source)
    config = dataclasses.replace(plain, picture_template="view_{:05d}.png")
    data, before = open_data(config), open_data(plain)
    assert data.train is not None
    assert data.validation is not None
    np.testing.assert_array_equal(frames_of(data.train), FRAMES)
    np.testing.assert_array_equal(frames_of(data.validation, 1), FRAMES + 1)
    assert data.fingerprints != before.fingerprints
    assert before.fingerprints == {
        "train": read_videos(source).fingerprint,
        "validation": read_videos(source).fingerprint,
    }
    assert (len(data.train), data.train.classes, data.train.label(1)) == (2, ("0", "1"), 1)
    training, evaluation = samples(data.train, tmp_path)
    assert training[0]["frames"].shape == (3, 8, 8, 3)
    assert evaluation[0]["valid"]
    flow = open_data(dataclasses.replace(plain, picture_template="x_%05d.png")).train
    assert flow is not None
    np.testing.assert_array_equal(frames_of(flow), 255 - FRAMES)
    with pytest.raises(ConfigError, match="must have one field"):
        open_data(dataclasses.replace(plain, picture_template="x.png"))


def test_folders_behind_urls(tmp_path: Path) -> None:
    make(tmp_path, frames="view_{:05d}.png")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/templates", recursive=True)
    try:
        config = DataConfig(train="memory://templates/list.txt", picture_template="view_{:05d}.png")
        videos = open_data(config).train
        assert videos is not None
        np.testing.assert_array_equal(frames_of(videos, 1), FRAMES + 1)
    finally:
        memory.rm("/templates", recursive=True)


@pytest.mark.parametrize("frames", ["img_{:05d}.png", "view_{:05d}.png"])
def test_packing_keeps_the_frames_alone(frames: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(make(tmp_path / "v", frames=frames))
    options = ["--picture-template", frames] if frames.startswith("view") else []
    assert main(["pack", source, str(tmp_path / "packed"), *options]) == 0
    packed = read_videos(str(tmp_path / "packed"))
    np.testing.assert_array_equal(frames_of(packed, 1), FRAMES + 1)
    if options:
        capsys.readouterr()
        assert main(["pack", source, str(tmp_path / "others")]) == 2
        assert "None of 2 videos can be decoded" in capsys.readouterr().err
        data = open_data(DataConfig(train=str(tmp_path / "packed"), picture_template=frames))
        assert data.train is not None
        np.testing.assert_array_equal(frames_of(data.train), FRAMES)
