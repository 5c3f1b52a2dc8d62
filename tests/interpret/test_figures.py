"""Pictures: the right colours in the right places, everything readable and nothing cut off."""

import dataclasses
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from tiny_flax import COLUMNS, FRAMES, HEADS, LAYERS, ROWS, tiny_flax
from videos import moving_pictures, write_video

from timesformer_jax.cli import main
from timesformer_jax.interpret.animation import write_animation
from timesformer_jax.interpret.figures import (
    cosine_similarity,
    embedding_figure,
    overlay_figure,
    shown_frames,
    temporal_figure,
)
from timesformer_jax.interpret.overlay import Scale, overlay
from timesformer_jax.interpret.relevance import class_relevance
from timesformer_jax.interpret.rollout import attention_rollout
from timesformer_jax.interpret.video_encoder import VideoEncoder

pytestmark = pytest.mark.usefixtures("quick_compile")

GRAY = np.full((3, 32, 64, 3), 100, np.uint8)


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """Whatever reaches out of the picture would darken its edge."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())
    for edge in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]):
        assert edge.min() == 255


def test_a_weight_colours_its_own_place() -> None:
    maps = np.zeros((3, 2, 4))
    maps[1, 0, 3] = 5
    scale = Scale.of(maps, "weight")
    assert (scale.lowest, scale.highest) == (0, 5)
    laid_over = overlay(GRAY, maps, scale).astype(int)
    bright, dark = (np.array(matplotlib.colormaps["inferno"](x, bytes=True)[:3], int) for x in (1.0, 0.0))
    np.testing.assert_array_equal(laid_over[1, 2, 62], np.round(0.4 * 100 + 0.6 * bright))  # upper right of frame 1
    for frame, row, column in ((1, 30, 62), (1, 2, 2), (0, 2, 62), (2, 2, 62)):
        np.testing.assert_array_equal(laid_over[frame, row, column], np.round(0.4 * 100 + 0.6 * dark))


def test_rounding_is_not_made_to_look_like_more() -> None:
    scale = Scale.of(np.array([1, 1 + 1e-9]), "weight")
    assert len(np.unique(scale.colours(np.array([1, 1 + 1e-9])), axis=0)) == 1
    assert Scale.of(np.zeros(3), "weight").colours(np.zeros(3)).shape == (3, 3)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 32, 32), (3, 32, 96), (20, 64, 32)])
def test_pictures_of_any_shape(frames: int, height: int, width: int) -> None:
    pictures = moving_pictures(frames, height, width)
    maps = np.random.default_rng(0).uniform(size=(frames, height // 16, width // 16))
    figure = overlay_figure(
        pictures, maps, Scale.of(maps, "attention / even attention"), "a $title_{with a} label's $ " * 3
    )
    assert_nothing_is_cut_off(figure)
    assert len(figure.axes) == 2 * min(frames, 8) + 1
    attention = np.random.default_rng(0).dirichlet(np.ones(frames), frames)
    figure = temporal_figure(pictures, attention, (1, 0), (16, 16), "a label of $_{$")
    assert_nothing_is_cut_off(figure)
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), attention)
    box: Any = figure.axes[0].patches[0]
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((-0.5, 15.5), 16, 16)


def test_frames_shown_of_a_long_clip() -> None:
    np.testing.assert_array_equal(shown_frames(5), range(5))
    np.testing.assert_array_equal(shown_frames(96)[[0, 1, -1]], [0, 14, 95])
    assert len(shown_frames(96)) == 8


@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only"])
def test_similarities_stand_in_their_places(attention_type: str) -> None:
    model, params = tiny_flax(attention_type, dtype=np.float32)
    figure = embedding_figure(model, params)
    assert_nothing_is_cut_off(figure)
    places = np.asarray(params["timesformer"]["embeddings"]["position_embeddings"], float)[1:]
    picture: Any = figure.axes[0].images[0].get_array()
    one, other = 1 * COLUMNS + 2, 0 * COLUMNS + 3  # (row 1, column 2) and (row 0, column 3)
    expected = places[one] @ places[other] / np.linalg.norm(places[one]) / np.linalg.norm(places[other])
    assert picture[1 * (ROWS + 1) + 0, 2 * (COLUMNS + 1) + 3] == pytest.approx(expected)
    assert picture[1 * (ROWS + 1) + 1, 2 * (COLUMNS + 1) + 2] == pytest.approx(1)
    assert np.ma.is_masked(picture[ROWS, 0]), "a gap between the places"
    if attention_type == "divided_space_time":
        time = np.asarray(params["timesformer"]["embeddings"]["time_embeddings"], float)
        np.testing.assert_allclose(figure.axes[1].images[0].get_array(), np.corrcoef(time, rowvar=True), atol=1)
        np.testing.assert_allclose(figure.axes[1].images[0].get_array(), cosine_similarity(time))
    np.testing.assert_array_equal(cosine_similarity(np.array([[0.0, 0], [3, 4]])), [[0, 0], [0, 1]])


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_animations_show_every_frame(suffix: str, tmp_path: Path) -> None:
    maps = np.zeros((3, 2, 4))
    maps[1, 0, 3] = 5
    path = tmp_path / f"a.{suffix}"
    write_animation(path, GRAY, maps, Scale.of(maps, "share / even share"), "attention rollout", frames_per_second=4)
    if suffix == "gif":
        with Image.open(path) as image:
            durations, pictures = [], []
            for i in range(image.n_frames):  # type: ignore[attr-defined]
                image.seek(i)
                durations.append(image.info["duration"])
                pictures.append(np.asarray(image.convert("RGB"), int))
        assert sum(durations) == 750
        assert len(pictures) == 3
    else:
        with av.open(str(path)) as container:
            pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
            assert container.streams.video[0].average_rate == 4
        assert len(pictures) == 3
    # 32 x 64 pixels are enlarged seven times; the second frame's upper right is bright on the right-hand side alone.
    y, x = 28 + 14, 12 + 7 * 64 - 14
    right = x + 12 + 7 * 64
    assert pictures[1][y, right].sum() > pictures[0][y, right].sum() + 200
    assert abs(pictures[1][y, x].sum() - 300) < 40
    assert min(picture[-3:].min() for picture in pictures) > 200, "words are cut off below"
    assert min(picture[:, -3:].min() for picture in pictures) > 200, "words are cut off on the right"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    model, params = tiny_flax("divided_space_time", dtype=np.float32)
    model.save_pretrained(directory, params)
    return directory


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", moving_pictures(20))


def test_the_command(checkpoint: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["visualize", str(video), "--model", str(checkpoint), "--out", str(tmp_path)]
    choices = ["--layer", "1", "--head", "2", "--patch", "0", "3", "--class", "LABEL_4"]
    assert main([*arguments, *choices, "--animation", "none"]) == 0
    printed = capsys.readouterr().out.splitlines()
    methods = ("attention", "rollout", "relevance", "temporal", "embeddings")
    expected = {"arrays.npz", *(f"{name}.png" for name in methods)}
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert set(printed) == {str(tmp_path / name) for name in expected}
    arrays = np.load(tmp_path / "arrays.npz")
    assert arrays["attention"].shape == (LAYERS, HEADS, FRAMES, ROWS, COLUMNS)
    assert arrays["temporal"].shape == (LAYERS, HEADS, FRAMES, FRAMES)
    np.testing.assert_array_equal(arrays["temporal_patch"], [0, 3])

    encoder = VideoEncoder.from_pretrained(checkpoint)
    frames = encoder.read(video)
    np.testing.assert_array_equal(arrays["frames"], frames)
    pixel_values = encoder.pixel_values(frames[None])
    maps, own = attention_rollout(encoder.model, encoder.params, pixel_values)
    np.testing.assert_allclose(arrays["rollout"], maps[0], rtol=1e-5)
    assert arrays["rollout"].sum() + own[0] == pytest.approx(1, rel=1e-5)
    expected_maps, _ = class_relevance(encoder.model, encoder.params, pixel_values, [4])
    np.testing.assert_allclose(arrays["relevance"], expected_maps[0], rtol=1e-4, atol=1e-6)
    assert arrays["relevance_class"] == 4


def test_people_see_rgb_whatever_the_model_sees(checkpoint: Path, video: Path) -> None:
    encoder = VideoEncoder.from_pretrained(checkpoint)
    processor = dataclasses.replace(encoder.processor, channel_order="bgr")
    swapped = dataclasses.replace(encoder, processor=processor)
    frames = encoder.read(video)
    np.testing.assert_array_equal(swapped.read(video), frames[..., ::-1])
    np.testing.assert_array_equal(swapped.rgb(swapped.read(video)), frames)
    assert not np.array_equal(frames, frames[..., ::-1])


def test_other_sizes_and_schemes(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, params = tiny_flax("joint_space_time", dtype=np.float32, num_labels=0)
    params.pop("classifier", None)
    model.save_pretrained(tmp_path / "checkpoint", params)
    arguments = ["visualize", str(video), "--model", str(tmp_path / "checkpoint"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--size", "12", "8", "--config.num-frames", "2"]) == 0
    assert "not drawn: temporal (" in capsys.readouterr().err
    names = {"attention.png", "attention.gif", "rollout.png", "rollout.gif", "embeddings.png", "arrays.npz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert np.load(tmp_path / "out" / "arrays.npz")["rollout"].shape == (2, 3, 2)


def test_choices_that_the_model_does_not_have(
    checkpoint: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, reason in (
        (["--layer", "2"], "--layer must be from 0 to 1"),
        (["--head", "3"], "--head must be from 0 to 2"),
        (["--patch", "2", "0"], "row must be from 0 to 1"),
        (["--patch", "0", "4"], "column must be from 0 to 3"),
        (["--class", "LABEL4"], "did you mean 'LABEL_4'"),
        (["--class", "7"], "none of the model's 7 classes"),
        (["--size", "8", "15"], "width of 15"),
        (["--method", "temporal", "--config.attention-type", "space_only"], "no step over time"),
    ):
        call = ["visualize", str(video), "--model", str(checkpoint), "--out", str(tmp_path / "out"), *arguments]
        assert main(call) == 2, arguments
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
