"""The lists of UCF-101 and HMDB-51 as they are published: labels from 1, lists without labels, flags of splits."""

from pathlib import Path

import pytest
from videos import moving_pictures, write_video

from timesformer_jax.cli import main
from timesformer_jax.data.config import DataConfig
from timesformer_jax.data.lists.listing import Choice
from timesformer_jax.data.sources import open_data, read_videos
from timesformer_jax.data.videos import Videos
from timesformer_jax.errors import DataError

UCF = ["ApplyEyeMakeup", "HandstandPushups", "JumpingJack", "JumpRope"]  # in the order of the numbers, not of capitals
FILES = {name: f"v_{name.replace('stand', 'Stand')}_g08_c01.avi" for name in UCF}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")


def listed(videos: Videos) -> list[tuple[str, str]]:
    return [(videos.name(i), videos.classes[videos.label(i)]) for i in range(len(videos))]


@pytest.fixture
def ucf(tmp_path: Path) -> Path:
    touch(*(tmp_path / "videos" / name / file for name, file in FILES.items()))
    rows = [f"{name}/{FILES[name]} {number}" for number, name in enumerate(UCF, 1)]
    (tmp_path / "trainlist01.txt").write_text("\r\n".join(rows) + "\r\n")
    (tmp_path / "testlist01.txt").write_text("".join(f"{name}/{FILES[name]}\n" for name in reversed(UCF)))
    return tmp_path


def write_class_index(folder: Path) -> None:
    (folder / "classInd.txt").write_text("".join(f"{number} {name}\r\n" for number, name in enumerate(UCF, 1)))


@pytest.mark.parametrize("index", ["none", "beside", "given"])
def test_ucf(index: str, ucf: Path) -> None:
    root = str(ucf / "videos")
    config = DataConfig(train=str(ucf / "trainlist01.txt"), validation=str(ucf / "testlist01.txt"), root=root)
    if index != "none":
        write_class_index(ucf)
    if index == "given":
        (ucf / "classInd.txt").rename(ucf / "classes.txt")
        config = DataConfig(config.train, config.validation, root, classes=str(ucf / "classes.txt"))
    data = open_data(config)
    assert data.train is not None
    assert data.validation is not None
    assert data.train.classes == data.validation.classes == tuple(UCF)
    assert data.train.labels.tolist() == [0, 1, 2, 3]
    assert data.validation.labels.tolist() == [3, 2, 1, 0]
    assert data.train.name(1) == "HandstandPushups/v_HandStandPushups_g08_c01.avi"


def test_ucf_alone_and_as_mmaction2_lists_it(ucf: Path) -> None:
    root = str(ucf / "videos")
    assert {name for _, name in listed(read_videos(str(ucf / "testlist01.txt"), root=root))} == set(UCF)
    rows = "".join(f"{name}/{FILES[name]} {number}\n" for number, name in enumerate(UCF))
    (ucf / "zero.txt").write_text(rows)
    assert read_videos(str(ucf / "zero.txt"), root=root).classes == tuple(UCF)
    (ucf / "names.txt").write_text("eyes\nhands\njack\nrope\n")  # other names than the folders'
    for name in ("zero.txt", "trainlist01.txt"):
        videos = read_videos(str(ucf / name), root=root, classes=str(ucf / "names.txt"))
        assert [label for _, label in listed(videos)] == ["eyes", "hands", "jack", "rope"]


def test_ucf_in_part(ucf: Path) -> None:
    root = str(ucf / "videos")
    (ucf / "part.txt").write_text(f"JumpRope/{FILES['JumpRope']} 4\nApplyEyeMakeup/{FILES['ApplyEyeMakeup']} 1\n")
    with pytest.raises(DataError, match=r"have gaps here, so that classInd.txt is needed"):
        read_videos(str(ucf / "part.txt"), root=root)
    write_class_index(ucf)
    assert read_videos(str(ucf / "part.txt"), root=root).labels.tolist() == [3, 0]
    (ucf / "groups.txt").write_text("".join(f"{name}/{FILES[name]} {len(name) > 12}\n" for name in UCF))
    text = (ucf / "groups.txt").read_text().replace("True", "1").replace("False", "0")
    (ucf / "groups.txt").write_text(text)  # labels that mean something else than the folders
    assert read_videos(str(ucf / "groups.txt"), root=root).labels.tolist() == [1, 1, 0, 0]


def test_a_class_file_that_counts_from_1_beside_labels(tmp_path: Path) -> None:
    """Labels count as that file does, where they tell; else nobody knows."""
    touch(tmp_path / "a.mp4")
    (tmp_path / "classes.txt").write_text("1 run\n2 jump\n3 swim\n")
    source, classes = tmp_path / "list.txt", str(tmp_path / "classes.txt")
    source.write_text("a.mp4 1\nb.mp4 3\n")
    assert [label for _, label in listed(read_videos(str(source), classes=classes))] == ["run", "swim"]
    source.write_text("a.mp4 0\nb.mp4 2\n")
    assert [label for _, label in listed(read_videos(str(source), classes=classes))] == ["run", "swim"]
    source.write_text("a.mp4 1\nb.mp4 2\n")
    with pytest.raises(DataError, match="the labels are 1 to 2, and the file of class names counts from 1"):
        read_videos(str(source), classes=classes)
    source.write_text("a.mp4 jump\nb.mp4 run\n")
    assert [label for _, label in listed(read_videos(str(source), classes=classes))] == ["jump", "run"]


@pytest.fixture
def hmdb(tmp_path: Path) -> Path:
    for name in ("brush_hair", "climb"):
        touch(*(tmp_path / "videos" / name / f"#{i} {name}_np1.avi" for i in range(4)))
        for split in (1, 2, 3):
            rows = [f"#{i} {name}_np1.avi {(i + split) % 3} \n" for i in range(4)]
            (tmp_path / "splits").mkdir(exist_ok=True)
            (tmp_path / "splits" / f"{name}_test_split{split}.txt").write_text("".join(rows))
    return tmp_path


def test_hmdb(hmdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = str(hmdb / "splits")
    data = open_data(DataConfig(train=splits, validation=splits))
    assert data.train is not None
    assert data.validation is not None
    assert data.train.classes == ("brush_hair", "climb")
    assert [name for name, _ in listed(data.train)] == [
        "brush_hair/#0 brush_hair_np1.avi",
        "brush_hair/#3 brush_hair_np1.avi",
        "climb/#0 climb_np1.avi",
        "climb/#3 climb_np1.avi",
    ]
    assert data.train.open(0) == str(hmdb / "videos" / "brush_hair" / "#0 brush_hair_np1.avi")
    assert listed(data.validation) == [
        ("brush_hair/#1 brush_hair_np1.avi", "brush_hair"),
        ("climb/#1 climb_np1.avi", "climb"),
    ]
    assert "the train videos of split 1 are taken (HMDB-51)" in capsys.readouterr().err
    third = DataConfig(train=splits, validation=splits, train_split="train3", validation_split="test3")
    data = open_data(third)
    assert data.validation is not None
    assert [name for name, _ in listed(data.validation)] == [
        "brush_hair/#2 brush_hair_np1.avi",
        "climb/#2 climb_np1.avi",
    ]


def test_packing_a_split(hmdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("brush_hair", "climb"):
        write_video(hmdb / "videos" / name / f"#1 {name}_np1.avi", moving_pictures(4, 32, 48))
    for split, code in ((["--split", "test"], 0), ([], 2), (["--split", "test4"], 2)):
        assert main(["pack", str(hmdb / "splits"), str(hmdb / "packed"), *split]) == code
    assert "name one, not 'test4'" in capsys.readouterr().err
    assert listed(read_videos(str(hmdb / "packed"))) == [
        ("brush_hair/#1 brush_hair_np1.avi", "brush_hair"),
        ("climb/#1 climb_np1.avi", "climb"),
    ]
    with pytest.raises(DataError, match="is no list with a column of splits, so none is called 'test'"):
        read_videos(str(hmdb / "packed"), choice=Choice("train", "test"))


def test_one_file_of_hmdb(hmdb: Path) -> None:
    file = str(hmdb / "splits" / "climb_test_split2.txt")
    videos = read_videos(file, root=str(hmdb / "videos"), choice=Choice("train"))
    assert listed(videos) == [("climb/#2 climb_np1.avi", "climb")]
    for choice, message in [
        (None, "has the splits train2, test2 of HMDB-51; name one"),
        (Choice("train", "train1"), "name one, not 'train1'"),
        (Choice("train", "dev"), "name one, not 'dev'"),
    ]:
        with pytest.raises(DataError, match=message):
            read_videos(file, root=str(hmdb / "videos"), choice=choice)
    Path(file).write_text("a.avi 1\nb.avi 3\n")
    with pytest.raises(DataError, match=r"line 2 is 'b.avi 3'; expected is a name and 0, 1 or 2"):
        read_videos(file, root=str(hmdb / "videos"), choice=Choice("train"))
