"""Folders of pictures: the frames are told from flow, depth, masks and posters, or a sentence names what is there."""

import json
from collections.abc import Sequence
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from videos import moving_pictures

from timesformer_jax.data import storage
from timesformer_jax.errors import ConfigError, VideoError
from timesformer_jax.video.picture_series import choose_series, match_template
from timesformer_jax.video.pictures import Pictures, open_pictures
from timesformer_jax.video.reading import probe, read_clip, read_frames

FRAMES = moving_pictures(12, 32, 48)
GRAY = np.repeat(moving_pictures(12, 32, 48, seed=3)[..., :1], 3, axis=-1)


def numbered(template: str, *numbers: int) -> list[str]:
    return [template.format(i) for i in numbers or range(1, 11)]


def write(folder: Path, names: Sequence[str], frames: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(names, frames, strict=False):
        Image.fromarray(frame).save(folder / name)
    return folder


def with_flow(folder: Path, called: str = "img") -> Path:
    """Ten frames and five of each component of flow, which is gray, as TSN and mmaction2 keep them."""
    write(folder, numbered(called + "_{:05d}.png"), FRAMES)
    write(folder, numbered("x_{:05d}.png", *range(1, 6)), GRAY)
    return write(folder, numbered("y_{:05d}.png", *range(1, 6)), GRAY[::-1])


@pytest.mark.parametrize(
    ("names", "chosen", "left_out"),
    [
        (numbered("img_{:05d}.jpg") + numbered("x_{:05d}.jpg") + numbered("y_{:05d}.jpg"), "img_{:05d}.jpg", "x_"),
        (numbered("frame{:d}.png") + numbered("depth{:d}.png"), "frame{:d}.png", "depth{:d}.png"),
        (numbered("Image_{:04d}.JPG") + numbered("mask_{:04d}.png"), "Image_{:04d}.JPG", "mask"),
        (numbered("{:04d}_rgb.png") + numbered("{:04d}_depth.png"), "{:04d}_rgb.png", "{:04d}_depth.png"),
        ([*numbered("{:04d}.jpg"), "poster.jpg"], "{:04d}.jpg", "poster.jpg"),
        ([*numbered("v_Run_g01_c02_{:04d}.jpg"), "thumb1.png"], "v_Run_g01_c02_{:04d}.jpg", "thumb1.png"),
        (["img.jpg", "mask.png"], "img.jpg", "mask.png"),
        # One series, however it is named.
        (numbered("{:d}.png"), "{:d}.png", ""),
        (numbered("{:04d}.jpg", *range(1, 6)) + numbered("{:04d}.png", *range(6, 9)), "{:04d}.jpg", ""),
        ([f"frame_{i:03d}_{40 * i:05d}.jpg" for i in range(20)], "frame_{}_{:05d}.jpg", ""),
        ([f"2020-05-17_12-{m:02d}-{s:02d}.jpg" for m in (8, 9) for s in range(60)], None, ""),
        (numbered("part1_{:d}.jpg", 1, 2, 3) + numbered("part2_{:d}.jpg", 4, 5, 6), "part{}_{:d}.jpg", ""),
        (["a.jpg", "b.jpg", "c.jpg"], None, ""),
    ],
)
def test_names_tell_the_series(names: list[str], chosen: str | None, left_out: str) -> None:
    def must_not_look(name: str) -> bool:
        raise AssertionError(name)

    series, others = choose_series("folder", names[::-1], must_not_look)
    if chosen is not None:
        assert series.template == chosen
    assert bool(others) == bool(left_out)
    assert others.startswith(left_out)
    assert len(series.names) == len(names) or left_out
    assert list(series.names) == [name for name in names if name in series.names]  # in order


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (numbered("left_{:d}.jpg") + numbered("right_{:d}.jpg"), ("left_{:d}.jpg", "right_{:d}.jpg")),
        (numbered("cam1_{:04d}.jpg") + numbered("cam2_{:04d}.jpg", *range(1, 10)), ("cam1_{:04d}.jpg", "cam2_")),
        ([f"frame_{i:03d}_cam{c}.jpg" for i in range(9) for c in (1, 2)], ("frame_{:03d}_cam1.jpg", "cam2")),
        (numbered("{:04d}.jpg") + numbered("{:04d}_mask.png"), ("{:04d}.jpg", "{:04d}_mask.png")),
        (numbered("{:04d}.jpg") + numbered("{:04d}.png"), ("{:04d}.jpg", "{:04d}.png")),
        (numbered("{:d}.jpg") + numbered("{:03d}.jpg"), ("{:03d}.jpg", "{:d}.jpg")),
        (["a 1.jpg", "a 2.jpg", "b.jpg", "c.jpg"], ("a {:d}.jpg", "b.jpg")),
    ],
)
@pytest.mark.parametrize("in_colour", [True, False])
def test_what_can_not_be_told_is_refused(names: list[str], said: tuple[str, ...], in_colour: bool) -> None:
    with pytest.raises(VideoError, match="holds several series of pictures") as caught:
        choose_series("some/folder", names, lambda _: in_colour)
    assert all(part in str(caught.value) for part in ("some/folder", "--picture-template", *said))


def test_frames_beside_optical_flow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = with_flow(tmp_path / "one", "rgb")
    assert probe(folder).frames == 10
    np.testing.assert_array_equal(read_frames(folder, range(10)), FRAMES[:10])
    np.testing.assert_array_equal(read_clip(folder, 5), FRAMES[[1, 3, 4, 6, 8]])
    read_clip(with_flow(tmp_path / "two", "rgb"), 5)
    said = [record.getMessage() for record in caplog.records]
    # Once for folders that are alike.
    assert said == [f"{folder}: the pictures rgb_{{:05d}}.png are the video; left out: x_{{:05d}}.png, y_{{:05d}}.png"]


def test_the_only_series_in_colour(tmp_path: Path) -> None:
    folder = with_flow(tmp_path / "a", "view")
    np.testing.assert_array_equal(read_frames(folder, [0, 9]), FRAMES[[0, 9]])
    depth = write(tmp_path / "b", numbered("cam_{:d}.png"), FRAMES)
    for i, frame in enumerate(GRAY[:10, ..., 0]):
        Image.fromarray(frame.astype(np.uint16) * 257).save(depth / f"z{i:03d}.png")
    np.testing.assert_array_equal(read_frames(depth, [3]), FRAMES[[3]])
    # A film that begins in black, and one in black and white, beside flow.
    dark = write(tmp_path / "c", numbered("view_{:05d}.png"), np.concatenate([GRAY[:3] * 0, FRAMES[3:]]))
    write(dark, numbered("flow_{:05d}.png"), GRAY)
    np.testing.assert_array_equal(read_frames(dark, [9]), FRAMES[[9]])
    gray = write(with_flow(tmp_path / "d", "x"), numbered("view_{:05d}.png"), GRAY)
    for file in gray.glob("[xy]_*"):
        Image.open(file).convert("L").save(file)
    with pytest.raises(VideoError, match=r"several series of pictures: view_.*, x_.*, y_"):
        read_frames(gray, [0])


def test_a_template_names_the_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = with_flow(tmp_path)
    flow = Pictures.in_folder(folder, "x_{:05d}.png")
    np.testing.assert_array_equal(read_frames(flow, range(5)), GRAY[:5])
    np.testing.assert_array_equal(read_clip(flow, 5), GRAY[:5])
    np.testing.assert_array_equal(read_frames(open_pictures(folder, "img_%05d.png"), [9]), FRAMES[[9]])
    assert open_pictures(folder, None) == folder
    assert open_pictures(folder / "img_00001.png", "x_{:05d}.png") == folder / "img_00001.png"
    with pytest.raises(VideoError, match=r"holds no picture rgb_\{:05d\}\.png; there are img_\{:05d\}\.png, x_"):
        read_clip(Pictures.in_folder(folder, "rgb_{:05d}.png"), 5)
    assert "is left out" not in caplog.text


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("img_{:05d}.jpg", ["img_00001.jpg", "img_00010.jpg", "img_100000.jpg"]),
        ("img_{:05}.jpg", ["img_00001.jpg", "img_00010.jpg", "img_100000.jpg"]),
        ("img_%05d.jpg", ["img_00001.jpg", "img_00010.jpg", "img_100000.jpg"]),
        ("img_{}.jpg", ["img_1.jpg", "img_100000.jpg"]),
        ("img_{i:d}.jpg", ["img_1.jpg", "img_100000.jpg"]),
        ("img_{:03d}.jpg", ["img_010.jpg", "img_100000.jpg"]),
    ],
)
def test_a_template_is_exact(template: str, names: list[str]) -> None:
    there = ["img_00010.jpg", "img_1.jpg", "img_010.jpg", "img_00001.jpg", "img_100000.jpg", "x_00001.jpg", "img_.jpg"]
    assert list(match_template(template, there).names) == names


@pytest.mark.parametrize("template", ["img.jpg", "flow_{}_{:05d}.jpg", "img_{:5.2f}.jpg", "img_{.jpg", "{:s}.jpg"])
def test_what_is_no_template(template: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must have one field for a number, as in 'img_\{:05d\}\.jpg'"):
        Pictures.in_folder(tmp_path, template)
    with pytest.raises(ConfigError, match="must have one field"):
        open_pictures(tmp_path / "video.mp4", template)


@pytest.mark.parametrize(
    ("numbers", "gap"),
    [
        (range(1, 11), None),
        (range(0, 50, 5), None),
        ([1, 2], None),
        ([1, 2, 3, 6, 7], "2 of its pictures are missing: img_00006.png comes after img_00003.png"),
        ([0, 5, 10, 20, 25], "1 of its pictures are missing: img_00020.png comes after img_00010.png"),
        ([3, 17, 18, 40, 93], None),  # no numbering
    ],
)
def test_gaps_are_named(
    numbers: Sequence[int], gap: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path, numbered("img_{:05d}.png", *numbers), FRAMES)
    read_clip(folder, 1)
    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if gap is None else [f"{folder}: {gap}."])


def test_folders_behind_urls_are_read_alike(tmp_path: Path) -> None:
    with_flow(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/series", recursive=True)
    remote = storage.video("memory://series")
    assert isinstance(remote, Pictures)
    assert list(remote.series().names) == numbered("img_{:05d}.png")
    memory.rm("/series", recursive=True)


def test_the_command_takes_a_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from timesformer_jax.cli import main

    write(tmp_path / "v", numbered("left_{:d}.png"), FRAMES)
    write(tmp_path / "v", numbered("right_{:d}.png"), FRAMES[::-1])
    command = ["classify", str(tmp_path / "v"), "--model", "motion-tiny", "--json"]
    assert main(command) == 2
    assert "several series of pictures: left_{:d}.png, right_{:d}.png" in capsys.readouterr().err
    assert main([*command, "--picture-template", "left_{:d}.png"]) == 0
    assert json.loads(capsys.readouterr().out)["video"] == str(tmp_path / "v")
    assert main([*command, "--picture-template", "left.png"]) == 2
    assert "must have one field for a number" in capsys.readouterr().err
