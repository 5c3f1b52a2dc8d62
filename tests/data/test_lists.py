"""Lists of videos: every kind is told by what is inside, and what is wrong with one is said in a sentence."""

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from timesformer_jax.data.config import DataConfig
from timesformer_jax.data.lists.delimited import read_lines
from timesformer_jax.data.sources import VideoFiles, open_data, read_videos
from timesformer_jax.data.videos import Videos
from timesformer_jax.errors import DataError, TimesformerError
from timesformer_jax.video.packets import EncodedVideo
from timesformer_jax.video.reading import Pictures, read_by_rule


def touch(*paths: Path) -> None:
    """Files that are there; lists are not opened to see whether they hold videos."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")


def listed(videos: Videos) -> list[tuple[str, int]]:
    return [(videos.name(i), videos.label(i)) for i in range(len(videos))]


def write_list(folder: Path, text: str) -> str:
    touch(folder / "a.mp4")
    (folder / "list.txt").write_text(text)
    return str(folder / "list.txt")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a.mp4 0\nb/c.mp4 12\n", [("a.mp4", "0"), ("b/c.mp4", "12")]),
        ("a.mp4,0\r\nb.mp4, 1\r\n", [("a.mp4", "0"), ("b.mp4", "1")]),
        ("a.mp4\t0\nb.mp4\t1", [("a.mp4", "0"), ("b.mp4", "1")]),
        ('"my dog.mp4" 0\nb.mp4 1', [("my dog.mp4", "0"), ("b.mp4", "1")]),
        ("'my dog.mp4' 0\nb.mp4 1", [("my dog.mp4", "0"), ("b.mp4", "1")]),
        ("my dog.mp4 0\nb.mp4 1", [("my dog.mp4", "0"), ("b.mp4", "1")]),
        ('"a, b.mp4",0\nc.mp4,1', [("a, b.mp4", "0"), ("c.mp4", "1")]),
        ("a,b.mp4 0\nc,d.mp4 1", [("a,b.mp4", "0"), ("c,d.mp4", "1")]),
        ('a.mp4 "riding a bike"\nb.mp4 abseiling', [("a.mp4", "riding a bike"), ("b.mp4", "abseiling")]),
        ("a.mp4,riding a bike\nb.mp4,abseiling", [("a.mp4", "riding a bike"), ("b.mp4", "abseiling")]),
        ("run 1/a.mp4,run 1\nrun 2/b.mp4,run 2", [("run 1/a.mp4", "run 1"), ("run 2/b.mp4", "run 2")]),
        ("run 1/0001,run 1\nrun 2/0002,run 2", [("run 1/0001", "run 1"), ("run 2/0002", "run 2")]),
        ("a, b.mp4,0\nc  d.mp4,1", [("a, b.mp4", "0"), ("c  d.mp4", "1")]),
        ("a  b.mp4  0\nc.mp4 1", [("a  b.mp4", "0"), ("c.mp4", "1")]),
        ("a, b/my dog.mp4 3\nc, d/my cat.mp4 0", [("a, b/my dog.mp4", "3"), ("c, d/my cat.mp4", "0")]),
        ("path,label\na.mp4,0\n\nb.mp4,1", [("a.mp4", "0"), ("b.mp4", "1")]),
        ("gs://bucket/a.mp4 3", [("gs://bucket/a.mp4", "3")]),
    ],
)
def test_lines(text: str, rows: list[tuple[str, str]]) -> None:
    assert [tuple(row) for row in read_lines("list", text, lambda path: True).rows] == rows


def test_lines_are_counted_as_an_editor_does() -> None:
    rows = read_lines("list", "path label\n\na.mp4 0\nb.mp4 1", lambda path: False)
    assert [rows.where(i) for i in range(2)] == ["line 3", "line 4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no videos"),
        ("\n \n", "lists no videos"),
        ("a.mp4\n", "line 1 is no path and label"),
        ("a.mp4 0\nb.mp4 1\nc.mp4\n", "line 3 is no path and label"),
        ("a.mp4 riding a bike\n", "line 1 is no path and label"),
        ("a.mp4 0\nb.mp4 bike", "line 2: label 'bike' is a name, but others are numbers"),
        ("a.mp4 0\nb.mp4 -1", "line 2: label -1 is out of range"),
        ("a.mp4 0\nb.mp4 1234567", "line 2: label 1234567 is out of range"),
        ("a.mp4 0\nb.mp4 1\na.mp4 1", "lists a.mp4 with two labels, '0' (line 1) and '1' (line 3)"),
        ("x.mp4 0\ny.mp4 1", "none of its first 2 videos exists"),
        ("[1, 2", "no valid JSON"),
        ("{}", "is no list of videos"),
        ('[{"id": "1"}]', "no column of labels (it has 'id')"),
        ('[{"id": "1", "template": "x"}, {"id": "1"}]', 'video 2 has no "id" and "template" (it has: id)'),
    ],
)
def test_what_is_wrong_with_a_list_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_videos(write_list(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No videos are given"):
        open_data(DataConfig(train=""))
    with pytest.raises(DataError, match="does not exist"):
        read_videos(str(tmp_path / "none.txt"))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="is no text"):
        read_videos(str(tmp_path / "binary.txt"))


def test_class_numbers_and_names(tmp_path: Path) -> None:
    numbers = read_videos(write_list(tmp_path, "a.mp4 2\nb.mp4 0"))
    assert numbers.classes == ("0", "1", "2")
    assert listed(numbers) == [("a.mp4", 2), ("b.mp4", 0)]
    names = read_videos(write_list(tmp_path, "a.mp4 run\nb.mp4 jump\nc.mp4 run"))
    assert names.classes == ("jump", "run")
    assert listed(names) == [("a.mp4", 1), ("b.mp4", 0), ("c.mp4", 1)]
    (tmp_path / "classes.txt").write_text("run\njump\nswim\n")
    classes = str(tmp_path / "classes.txt")
    assert listed(read_videos(write_list(tmp_path, "a.mp4 run\nb.mp4 jump"), classes=classes)) == [
        ("a.mp4", 0),
        ("b.mp4", 1),
    ]
    by_number = read_videos(write_list(tmp_path, "a.mp4 2\nb.mp4 1"), classes=classes)
    assert (by_number.classes, listed(by_number)) == (("run", "jump", "swim"), [("a.mp4", 2), ("b.mp4", 1)])
    for label in ("3", "walk"):
        with pytest.raises(DataError, match=rf"line 2: label '{label}' is none of the 3 classes \(run, jump, swim"):
            read_videos(
                write_list(tmp_path, f"a.mp4 0\nb.mp4 {label}" if label == "3" else "a.mp4 run\nb.mp4 walk"),
                classes=classes,
            )


def test_validation_has_the_classes_of_training(tmp_path: Path) -> None:
    train = write_list(tmp_path, "a.mp4 swim\nb.mp4 jump\nc.mp4 run")
    (tmp_path / "validation.txt").write_text("a.mp4 swim")
    data = open_data(DataConfig(train=train, validation=str(tmp_path / "validation.txt")))
    assert data.train is not None
    assert data.validation is not None
    assert data.train.classes == data.validation.classes == ("jump", "run", "swim")
    assert listed(data.validation) == [("a.mp4", 2)]
    assert data.fingerprints == {"train": data.train.fingerprint, "validation": data.validation.fingerprint}
    alone = open_data(DataConfig(validation=str(tmp_path / "validation.txt")))
    assert alone.validation is not None
    assert (alone.train, alone.validation.classes) == (None, ("swim",))
    assert open_data(DataConfig()).fingerprints == {}


def test_paths_are_relative_to_the_list_or_the_root(tmp_path: Path) -> None:
    touch(tmp_path / "videos" / "b.mp4")
    source = write_list(tmp_path, f"a.mp4 0\n{tmp_path / 'videos' / 'b.mp4'} 1")
    videos = read_videos(source)
    assert [videos.open(i) for i in range(2)] == [str(tmp_path / "a.mp4"), str(tmp_path / "videos" / "b.mp4")]
    (tmp_path / "list.txt").write_text("b.mp4 0")
    assert read_videos(source, root=str(tmp_path / "videos")).open(0) == str(tmp_path / "videos" / "b.mp4")


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path / "run" / "b.mp4", tmp_path / "run" / "a.webm", tmp_path / "jump" / "c.avi")
    touch(tmp_path / "run" / "notes.txt", tmp_path / ".cache" / "x.mp4", tmp_path / "jump" / ".hidden.mp4")
    touch(
        tmp_path / "10" / "d.mp4", tmp_path / "2" / "frames" / "1.jpg"
    )  # folders have names, also where they are numbers
    videos = read_videos(str(tmp_path))
    assert videos.classes == ("10", "2", "jump", "run")
    assert listed(videos) == [("10/d.mp4", 0), ("2/frames", 1), ("jump/c.avi", 2), ("run/a.webm", 3), ("run/b.mp4", 3)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.mp4"], "holds no folders"),
        (["run/notes.txt"], "holds no videos in its 1 folders"),
        (["train/run/a.mp4", "val/run/b.mp4"], "train/run holds no pictures; name the folder just above"),
    ],
)
def test_folders_that_are_none_of_classes(tmp_path: Path, files: list[str], message: str) -> None:
    touch(*(tmp_path / name for name in files))
    with pytest.raises(DataError, match=message):
        read_videos(str(tmp_path))


def write_something_something(folder: Path) -> str:
    records = [
        {"id": "78687", "label": "holding potato", "template": "Holding [something] next to [something]"},
        {"id": "42326", "label": "bending spoon", "template": "Bending [something]", "placeholders": ["spoon"]},
        {"id": "9", "label": "x", "template": "Bending [something]"},
    ]
    (folder / "train.json").write_text(json.dumps(records))
    labels = {"Bending something": "0", "Holding something next to something": "1", "Spinning something": "2"}
    (folder / "labels.json").write_text(json.dumps(labels))
    return str(folder / "train.json")


def test_something_something(tmp_path: Path) -> None:
    source = write_something_something(tmp_path)
    touch(tmp_path / "20bn-something-something-v2" / "78687.webm", tmp_path / "20bn-something-something-v2" / "9.mp4")
    touch(tmp_path / "20bn-something-something-v2" / "42326" / "0001.jpg")
    videos = read_videos(source)
    assert listed(videos) == [("78687.webm", 1), ("42326", 0), ("9.mp4", 0)]
    assert videos.classes[2] == "Spinning something"
    assert videos.open(0) == str(tmp_path / "20bn-something-something-v2" / "78687.webm")
    (tmp_path / "labels.json").rename(tmp_path / "names.json")
    with pytest.raises(DataError, match="needs the file of its classes"):
        read_videos(source)
    assert listed(read_videos(source, classes=str(tmp_path / "names.json"))) == listed(videos)


def test_a_file_of_classes_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text("{")
    with pytest.raises(TimesformerError, match="no JSON of labels"):
        read_videos(write_list(tmp_path, "a.mp4 0"), classes=str(tmp_path / "classes.json"))


def test_the_fingerprint_tells_data_sets_apart(tmp_path: Path) -> None:
    touch(tmp_path / "b.mp4")
    prints = {
        read_videos(write_list(tmp_path, text)).fingerprint
        for text in ("a.mp4 0\nb.mp4 1", "a.mp4 1\nb.mp4 0", "b.mp4 1\na.mp4 0", "a.mp4 0\nb.mp4 2", "a.mp4 x\nb.mp4 y")
    }
    assert len(prints) == 5
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert read_videos(write_list(elsewhere, "a.mp4,0\nb.mp4,1")).fingerprint in prints


def test_behind_a_url() -> None:
    """Everything works on any file system of fsspec; this one is in memory."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/lists/train.txt", b"run/a.mp4 0\nrun/frames 1\n")
    memory.pipe("/videos/run/a.mp4", b"not really a video")
    for number in range(3):
        buffer = fsspec.open(f"memory://videos/run/frames/{number}.png", "wb")
        with buffer as file:
            Image.fromarray(np.full((4, 6, 3), 50 * number, np.uint8)).save(file, "PNG")
    videos = read_videos("memory://lists/train.txt", root="memory://videos")
    assert isinstance(videos, VideoFiles)
    assert listed(videos) == [("run/a.mp4", 0), ("run/frames", 1)]
    assert videos.open(0) == EncodedVideo("memory://videos/run/a.mp4", b"not really a video")
    pictures = videos.open(1)
    assert isinstance(pictures, Pictures)
    frames = read_by_rule(pictures, lambda total, fps: np.array([0, total - 1]))
    np.testing.assert_array_equal(frames[:, 0, 0, 0], [0, 100])
    assert listed(read_videos("memory://videos")) == [("run/a.mp4", 0), ("run/frames", 0)]
    with pytest.raises(DataError, match="does not exist"):
        read_videos("memory://lists/none.txt")
    with pytest.raises(DataError, match=r"nosuch://list.txt can't be read"):
        read_videos("nosuch://list.txt")
