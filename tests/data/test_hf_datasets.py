"""Data sets of Hugging Face's `datasets`, as that library writes them: Arrow, Parquet, and a folder with metadata."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from batch_streams import CLIP, assert_same, streams
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, Video
from videos import moving_pictures, write_video

from timesformer_jax.data.bad_videos import BadVideos
from timesformer_jax.data.batches import EvaluationBatches
from timesformer_jax.data.config import DataConfig, Views
from timesformer_jax.data.packing import pack
from timesformer_jax.data.sources import VideoFiles, read_videos
from timesformer_jax.data.videos import Span, Videos
from timesformer_jax.errors import DataError, VideoError
from timesformer_jax.video.packets import EncodedVideo

COUNT = 7
NAMES = ["run", "jump", "a long way to swim"]
FEATURES = Features({"video": Video(), "label": ClassLabel(names=NAMES)})

datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven videos, and a list of them."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(COUNT):
        write_video(folder / f"{number}.mp4", moving_pictures(16 + number, 32, 48, seed=number))
    (folder / "list.csv").write_text("".join(f"{i}.mp4,{NAMES[i % 3]}\n" for i in range(COUNT)))
    (folder / "names.txt").write_text("\n".join(NAMES))
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    paths = [str(folder / f"{number}.mp4") for number in range(COUNT)]
    return Dataset.from_dict({"video": paths, "label": [i % 3 for i in range(COUNT)]}, features=FEATURES)


@pytest.fixture(scope="module")
def saved(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "train"
    data.save_to_disk(path, num_shards=2)
    return path


def embedded(folder: Path, path: Path, rows: range = range(COUNT), **options: Any) -> Path:
    """A Parquet file with the videos in it, as `push_to_hub` writes them."""
    videos = [{"bytes": (folder / f"{i}.mp4").read_bytes(), "path": f"{i}.mp4"} for i in rows]
    table = pyarrow.table({"video": videos, "label": [i % 3 for i in rows]})
    notes = {"huggingface": json.dumps({"info": {"features": FEATURES.to_dict()}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata(notes), path, **options)
    return path


@pytest.fixture(scope="module")
def wanted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """Batches of the same videos from a list, with the same order of classes."""
    videos = read_videos(str(folder / "list.csv"), classes=str(folder / "names.txt"))
    return streams(videos, tmp_path_factory.mktemp("wanted") / "bad.txt")


def check(videos: Videos, wanted: list[dict[str, np.ndarray]], bad_list: Path) -> None:
    assert videos.classes == tuple(NAMES)
    assert videos.ordered
    assert videos.labels.tolist() == [i % 3 for i in range(COUNT)]
    assert len({videos.name(i) for i in range(COUNT)}) == COUNT
    assert_same(streams(videos, bad_list), wanted)
    assert_same(streams(videos, bad_list, start=2)[:1], wanted[2:])


def test_save_to_disk(saved: Path, wanted: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    videos = read_videos(str(saved))
    check(videos, wanted, tmp_path / "bad.txt")
    assert videos.name(5) == "data-00001-of-00002.arrow/1/5.mp4"
    pack(videos, tmp_path / "packed", shards=2)
    packed = read_videos(str(tmp_path / "packed"))
    assert (packed.fingerprint, packed.ordered) == (videos.fingerprint, True)
    assert_same(streams(packed, tmp_path / "bad.txt"), wanted)


def test_parquet_with_paths(data: Dataset, wanted: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    data.to_parquet(tmp_path / "train.parquet")
    check(read_videos(str(tmp_path / "train.parquet")), wanted, tmp_path / "bad.txt")


@pytest.mark.parametrize("options", [{}, {"row_group_size": 2}, {"compression": "none", "use_dictionary": False}])
def test_parquet_with_videos(
    folder: Path, wanted: list[dict[str, np.ndarray]], tmp_path: Path, options: dict[str, Any]
) -> None:
    path = embedded(folder, tmp_path / "train.parquet", **options)
    videos = read_videos(str(path))
    check(videos, wanted, tmp_path / "bad.txt")
    for index in (3, 3, 4, 1, 6, 0, 5):  # in any order
        assert videos.open(index) == EncodedVideo(videos.name(index), (folder / f"{index}.mp4").read_bytes())


def test_parquet_in_parts(folder: Path, wanted: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    """As a repository of the Hub has them."""
    embedded(folder, tmp_path / "data" / "train-00000-of-00002.parquet", range(4))
    embedded(folder, tmp_path / "data" / "train-00001-of-00002.parquet", range(4, COUNT))
    (tmp_path / "README.md").write_text("# Videos")
    whole = read_videos(str(tmp_path))
    check(whole, wanted, tmp_path / "bad.txt")
    for source in (tmp_path / "data", tmp_path / "data" / "train-*.parquet"):
        assert read_videos(str(source)).fingerprint == whole.fingerprint
    embedded(folder, tmp_path / "data" / "test-00000-of-00001.parquet", range(4))
    with pytest.raises(
        DataError, match=r"holds several splits \(test, train\); name the files of one, such as .*test\*"
    ):
        read_videos(str(tmp_path))
    assert read_videos(f"{tmp_path}/data/train*.parquet").fingerprint == whole.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_worker_processes_give_the_same(
    folder: Path, saved: Path, wanted: list[dict[str, np.ndarray]], tmp_path: Path, kind: str
) -> None:
    source = saved if kind == "arrow" else embedded(folder, tmp_path / "train.parquet")
    videos = read_videos(str(source))
    assert videos.open(0)  # what is open here must not go to the workers
    assert_same(streams(videos, tmp_path / "bad.txt", workers=2), wanted)


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        ({"x": [{"path": "0.mp4"}, {"path": "1.mp4"}], "label": ["run", "jump"], "label_id": [7, 7]}, [1, 0]),
        ({"path": ["x.mp4", "y.mp4"], "data": [b"0", b"1"], "label": ["run", "jump"]}, [1, 0]),
        ({"file": [b"0", b"1"], "category": [0, 4], "n": [1, 2]}, [0, 4]),
        ({"video": [b"0", b"1"], "labels": ["7", "3"]}, [7, 3]),
        ({"clip": [{"bytes": b"0", "path": None}, {"bytes": b"1", "path": "x/1.mp4"}], "class": ["b", "a"]}, [1, 0]),
    ],
)
def test_columns_without_features(tmp_path: Path, columns: dict[str, Any], labels: list[int]) -> None:
    for name in ("0.mp4", "1.mp4"):
        (tmp_path / name).write_bytes(b"video")
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    videos = read_videos(str(tmp_path / "t.parquet"))
    assert videos.labels.tolist() == labels
    opened = [videos.open(i) for i in range(2)]
    if "label_id" in columns:
        assert opened == [str(tmp_path / "0.mp4"), str(tmp_path / "1.mp4")]
        assert read_videos(str(tmp_path / "t.parquet"), root="/elsewhere").open(0) == "/elsewhere/0.mp4"
    else:
        assert [video.data for video in opened] == [b"0", b"1"]  # type: ignore[union-attr]


@pytest.mark.parametrize("names", [("start", "end"), ("start_sec", "end_sec"), ("tStart", "tEnd"), ("begin", "stop")])
def test_columns_of_parts_have_the_names_that_they_have_in_lists(
    names: tuple[str, str], folder: Path, tmp_path: Path
) -> None:
    columns = {"video": [(folder / "5.mp4").read_bytes()], "label": ["run"], names[0]: [0.1], names[1]: [0.3]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert read_videos(str(tmp_path / "t.parquet")).span(0) == Span(0.1, 0.3)


def test_parts_of_videos(folder: Path, tmp_path: Path) -> None:
    video = (folder / "5.mp4").read_bytes()
    columns = {"video": [video] * 3, "label": ["run", "jump", "run"], "start": [0.0, 0.2, 0.2], "end": [0.2, 0.4, None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    videos = read_videos(str(tmp_path / "t.parquet"))
    assert [videos.name(i) for i in range(3)] == [
        *("t.parquet/0#t=0,0.2", "t.parquet/1#t=0.2,0.4", "t.parquet/2#t=0.2")
    ]
    assert [videos.span(i) for i in range(3)] == [Span(0, 0.2), Span(0.2, 0.4), Span(0.2)]
    for change, message in (
        ({"start": [0, 0.1, None]}, "row 2"),
        ({"start": [0, 1, 1]}, "row 1: the part from 1 to 0.4"),
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns | change), tmp_path / "t.parquet")
        with pytest.raises(DataError, match=message):
            read_videos(str(tmp_path / "t.parquet"))
    splits = pyarrow.table(columns | {"split": ["train", "test", "train"]})
    pyarrow.parquet.write_table(splits, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"holds several splits \(test, train\)"):
        read_videos(str(tmp_path / "t.parquet"))


def test_label_names_in_text_columns(folder: Path, tmp_path: Path) -> None:
    paths = [str(folder / f"{i}.mp4") for i in range(2)]
    features = Features({"video": Video(), "label": Value("string"), "caption": Value("string")})
    rows = {"video": paths, "label": ["swim", "run"], "caption": ["x", "y"]}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    videos = read_videos(str(tmp_path / "saved"))
    assert (videos.classes, videos.labels.tolist(), videos.ordered) == (("run", "swim"), [1, 0], False)


def test_what_is_damaged_is_named(folder: Path, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "saved")
    file = tmp_path / "saved" / "data-00001-of-00002.arrow"
    data, video = bytearray(file.read_bytes()), (folder / "4.mp4").read_bytes()
    start = data.index(video)
    data[start : start + len(video)] = b"\xff" * len(video)
    file.write_bytes(data)
    videos = read_videos(str(tmp_path / "saved"))
    batches = EvaluationBatches(
        *(videos, DataConfig(workers=0)),
        **{"clip": CLIP, "batch_size": COUNT, "views": Views(crops=1), "bad_list": tmp_path / "bad.txt"},
    )
    (batch,) = batches
    assert batch["valid"].tolist() == [i != 4 for i in range(COUNT)]
    assert BadVideos(tmp_path / "bad.txt").names() == {"data-00001-of-00002.arrow/0/4.mp4"}
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"data-00001-of-00002.arrow is damaged, or no such table"):
        read_videos(str(tmp_path / "saved"))
    file.unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00002.arrow is missing"):
        read_videos(str(tmp_path / "saved"))


def test_damaged_parquet(folder: Path, tmp_path: Path) -> None:
    path = embedded(folder, tmp_path / "t.parquet", compression="none", use_dictionary=False, row_group_size=1)
    data, video = bytearray(path.read_bytes()), (folder / "2.mp4").read_bytes()
    start = data.index(video)
    data[start - 20 : start] = b"\xff" * 20  # what says how long the page is
    path.write_bytes(data)
    videos = read_videos(str(path))
    with pytest.raises(VideoError, match=r"Row 2 of .*t.parquet can't be read"):
        videos.open(2)
    assert videos.open(3).data == (folder / "3.mp4").read_bytes()  # type: ignore[union-attr]
    with pyarrow.parquet.ParquetFile(path) as file:
        labels = file.metadata.row_group(2).column(2).data_page_offset
    path.write_bytes(data[:labels] + b"\xff" * 20 + data[labels + 20 :])
    with pytest.raises(DataError, match=r"t.parquet is damaged"):
        read_videos(str(path))
    path.write_bytes(data[:-50])
    with pytest.raises(DataError, match=r"t.parquet is damaged, or no such table"):
        read_videos(str(path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video": [b"a"], "n": [1]}, "no column of labels with a known name"),
        ({"a": [b"x"], "b": [b"y"], "label": [0]}, r"several columns of videos \(a, b\); call one 'video'"),
        ({"video": [b"a"], "label": [None]}, "row 0: the label is 'None'"),
        ({"video": [b"a"], "label": [[1, 2]]}, r"row 0: the label is '\[1, 2\]'"),
        ({"video": [b"a"], "label": [0.5]}, "row 0: the label is '0.5'"),
        ({"video": [b"a", b"b"], "label": ["run", ""]}, "row 1: the label is ''"),
        ({"video": [b"a"], "label": [-1]}, "label -1 is out of range"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message) as caught:
        read_videos(str(tmp_path / "t.parquet"))
    assert "t.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_that_are_not_known(folder: Path, data: Dataset, tmp_path: Path) -> None:
    Dataset.from_dict({"video": [str(folder / "0.mp4")], "label": [-1]}, features=FEATURES).save_to_disk(
        tmp_path / "test"
    )
    with pytest.raises(DataError, match=r"row 0: label -1 is none of the 3 classes \(-1: not known\)"):
        read_videos(str(tmp_path / "test"))


def test_a_row_without_a_video(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": None}, {"bytes": b"x", "path": None}]
    pyarrow.parquet.write_table(pyarrow.table({"video": rows, "label": [0, 1]}), tmp_path / "t.parquet")
    with pytest.raises(VideoError, match=r"t.parquet/0 holds neither a video nor its path"):
        read_videos(str(tmp_path / "t.parquet")).open(0)


def test_splits_and_orders_that_are_kept_apart(data: Dataset, tmp_path: Path) -> None:
    DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "all")
    with pytest.raises(DataError, match=r"holds several splits; name the folder of one \(train, test\)"):
        read_videos(str(tmp_path / "all"))
    assert len(read_videos(str(tmp_path / "all" / "test"))) == COUNT
    state = tmp_path / "all" / "test" / "state.json"
    state.write_text(
        json.dumps(json.loads(state.read_text()) | {"_indices_data_files": [{"filename": "indices.arrow"}]})
    )
    with pytest.raises(DataError, match="keeps the order of its rows in a file of its own"):
        read_videos(str(tmp_path / "all" / "test"))
    state.write_text("{}")
    with pytest.raises(DataError, match=r"state.json is damaged"):
        read_videos(str(tmp_path / "all" / "test"))
    # A shuffled data set is saved in its order, which is what counts.
    shuffled = data.shuffle(seed=0)
    shuffled.save_to_disk(tmp_path / "shuffled")
    assert read_videos(str(tmp_path / "shuffled")).labels.tolist() == shuffled["label"]


def test_a_folder_with_metadata(folder: Path, tmp_path: Path) -> None:
    """Hugging Face's VideoFolder: metadata.csv names the files and their labels."""
    (tmp_path / "clips").mkdir()
    for number in range(3):
        shutil.copy(folder / f"{number}.mp4", tmp_path / "clips")
    (tmp_path / "metadata.csv").write_text(
        "file_name,label\n" + "".join(f"clips/{i}.mp4,{NAMES[i]}\n" for i in range(3))
    )
    videos = read_videos(str(tmp_path))
    assert isinstance(videos, VideoFiles)
    assert [(videos.name(i), videos.classes[videos.label(i)]) for i in range(3)] == [
        (f"clips/{i}.mp4", NAMES[i]) for i in range(3)
    ]
    # Another file of that name says nothing of the videos.
    (tmp_path / "metadata.csv").write_text("camera,date\nx,1\n")
    assert read_videos(str(tmp_path)).classes == ("clips",)


def test_without_pyarrow(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "saved")  # nothing of it is open yet
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow to be read: pip install 'timesformer-jax\[parquet\]'"):
        read_videos(str(tmp_path / "saved"))


def test_row_groups_that_are_large_are_announced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("timesformer_jax.data.hf_datasets._LARGE_GROUP", 1000)
    read_videos(str(embedded(folder, tmp_path / "t.parquet")))
    assert "MB are read for one video" in capsys.readouterr().err
