"""Which class of the model a class of the data is: by name, or by number, never by place alone."""

from pathlib import Path

import pytest

from timesformer_jax.data.config import DataConfig
from timesformer_jax.data.sources import open_data, read_videos
from timesformer_jax.errors import DataError
from timesformer_jax.evaluation.classes import match_classes


def folders(root: Path, *names: str) -> str:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "a.mp4").write_bytes(b"video")
    return str(root)


def listed(root: Path, *labels: str) -> str:
    root.mkdir(exist_ok=True)
    (root / "a.mp4").write_bytes(b"video")
    (root / "list.csv").write_text("".join(f"{i}/../a.mp4,{label}\n" for i, label in enumerate(labels)))
    for i in range(len(labels)):
        (root / str(i)).mkdir(exist_ok=True)
    return str(root / "list.csv")


def labels_file(root: Path, *names: str) -> str:
    (root / "names.txt").write_text("\n".join(names))
    return str(root / "names.txt")


def matched(source: str, names: list[str], classes: str | None = None) -> dict[str, int]:
    """The model's number of each class that has videos."""
    videos = read_videos(source, classes=classes)
    numbers = match_classes(videos, names, "model")
    return {videos.name(i).rpartition("/")[0]: int(numbers[videos.label(i)]) for i in range(len(videos))}


def by_default(count: int) -> list[str]:
    return [f"LABEL_{number}" for number in range(count)]


def in_text_order(count: int) -> list[str]:
    """As a model has them that an earlier version trained on numbered folders: 0, 1, 10, 11, 2, ..."""
    return sorted(map(str, range(count)))


TWELVE = [str(number) for number in range(12)]


@pytest.mark.parametrize("present", [TWELVE, ["3", "7"], ["10", "2"], ["11"], ["003", "07"]])
@pytest.mark.parametrize("names", [by_default(12), TWELVE, in_text_order(12), [f"sport {i}" for i in range(12)]])
def test_the_number_of_a_folder_is_its_label(tmp_path: Path, present: list[str], names: list[str]) -> None:
    found = matched(folders(tmp_path, *present), names)
    wanted = {name: names.index(str(int(name))) if "11" in names else int(name) for name in present}
    assert found == wanted


@pytest.mark.parametrize("labels", [TWELVE, ["7", "3"], ["0", "11", "2"]])
@pytest.mark.parametrize("names", [by_default(12), in_text_order(12), [f"sport {i}" for i in range(12)]])
def test_so_is_a_number_in_a_list(tmp_path: Path, labels: list[str], names: list[str]) -> None:
    videos = read_videos(listed(tmp_path, *labels))
    numbers = match_classes(videos, names, "model")
    found = [names[numbers[videos.label(i)]] for i in range(len(videos))]
    wanted = [label if "11" in names else names[int(label)] for label in labels]
    assert found == wanted


def test_models_that_were_trained_on_some_numbers(tmp_path: Path) -> None:
    assert matched(folders(tmp_path / "a", "3", "7"), ["3", "7"]) == {"3": 0, "7": 1}
    assert matched(folders(tmp_path / "b", "7"), ["3", "7"]) == {"7": 1}
    assert list(match_classes(read_videos(listed(tmp_path / "c", "7", "3")), ["3", "7"], "model")[[3, 7]]) == [0, 1]
    for source in (folders(tmp_path / "d", "3", "8"), listed(tmp_path / "e", "0", "1")):
        with pytest.raises(
            DataError, match=r"label [08] of the videos is the number of none of the 2 classes of model"
        ):
            matched(source, ["3", "7"])


@pytest.mark.parametrize(
    ("present", "names"), [(["1", "2", "3"], by_default(3)), (["2019"], ["a", "b"]), (["12"], TWELVE)]
)
def test_a_number_beyond_those_of_the_model(tmp_path: Path, present: list[str], names: list[str]) -> None:
    with pytest.raises(
        DataError, match=rf"label {present[-1]} of the videos is the number of none of the {len(names)} "
    ):
        matched(folders(tmp_path, *present), names)


@pytest.mark.parametrize("names", [by_default(2), ["0", "1"], by_default(400)])
def test_names_against_numbers_need_an_order(tmp_path: Path, names: list[str]) -> None:
    folder = folders(tmp_path / "videos", "run", "jump")
    with pytest.raises(
        DataError, match="does not tell which of them is 'jump'; give --labels with their names, or --data"
    ):
        matched(folder, names)
    file = labels_file(tmp_path, "run", "jump", *(f"other {i}" for i in range(len(names) - 2)))
    assert matched(folder, names, classes=file) == {"run": 0, "jump": 1}
    if len(names) > 2:  # a file that names some of them does not tell which they are
        with pytest.raises(DataError, match="all 400 names"):
            matched(folder, names, classes=labels_file(tmp_path, "run", "jump"))


def test_names_in_any_order_and_spelling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders(tmp_path / "a", "riding_a_bike", "Abseiling")
    assert matched(folder, ["abseiling", "riding a bike"]) == {"riding_a_bike": 1, "Abseiling": 0}
    assert "differ in capitals or underscores" in capsys.readouterr().err
    assert matched(folder, ["Abseiling", "abseiling", "riding_a_bike"]) == {"riding_a_bike": 2, "Abseiling": 0}
    assert not capsys.readouterr().err
    with pytest.raises(DataError, match="does not know 2 of the 2 classes of the videos, 'Abseiling' for one"):
        matched(folder, ["abseiling", "riding a bike", "Riding a bike"])  # which of the two?
    with pytest.raises(DataError, match="does not know 1 of the 2 classes of the videos, 'riding_a_bike'"):
        matched(folder, ["Abseiling", "bike"])


def test_a_model_with_two_classes_of_one_name(tmp_path: Path) -> None:
    names = ["run", "jump", "run"]
    with pytest.raises(DataError, match="several classes called 'run'"):
        matched(folders(tmp_path / "a", "run", "jump"), names)
    assert matched(folders(tmp_path / "b", "jump"), names) == {"jump": 1}


def test_classes_of_a_list_without_videos_need_not_be_known(tmp_path: Path) -> None:
    file = labels_file(tmp_path, "swim", "run", "jump")
    assert matched(folders(tmp_path / "videos", "run"), ["jump", "run"], classes=file) == {"run": 1}


def test_numbered_folders_in_training(tmp_path: Path) -> None:
    """Their order is that of the numbers, so that with 0 to 11 the place is the number; names stay the folders'."""
    videos = read_videos(folders(tmp_path / "a", *TWELVE))
    assert videos.classes == tuple(TWELVE)
    assert read_videos(folders(tmp_path / "b", "10", "9", "100")).classes == ("9", "10", "100")
    assert read_videos(folders(tmp_path / "c", "10", "9", "x")).classes == ("10", "9", "x")
    # A run that an earlier version began keeps its order, and so its fingerprint.
    earlier = read_videos(str(tmp_path / "a"), earlier=in_text_order(12))
    assert earlier.classes == tuple(in_text_order(12))
    assert earlier.label(list(earlier.classes).index("10")) == 2
    assert earlier.fingerprint != videos.fingerprint
    assert read_videos(str(tmp_path / "a"), earlier=["x", "y"]).classes == tuple(TWELVE)


@pytest.mark.parametrize(
    ("train", "validation", "labels"),
    [
        (["3", "7"], ["7", "3"], [1, 0]),  # a list's 7 is the folder 7
        (["3", "7"], ["07"], [1]),
        (["run", "jump"], ["run", "jump"], [1, 0]),
    ],
)
def test_validation_by_the_classes_of_training(
    tmp_path: Path, train: list[str], validation: list[str], labels: list[int]
) -> None:
    config = DataConfig(train=folders(tmp_path / "a", *train), validation=listed(tmp_path / "b", *validation))
    found = open_data(config).validation
    assert found is not None
    assert found.labels.tolist() == labels


def test_numbers_do_not_stand_for_names_whose_order_nobody_gave(tmp_path: Path) -> None:
    train, validation = folders(tmp_path / "a", "run", "jump"), listed(tmp_path / "b", "0", "1")
    with pytest.raises(DataError, match="label '0' is a number, but the classes have names"):
        open_data(DataConfig(train=train, validation=validation))
    file = labels_file(tmp_path, "run", "jump")
    found = open_data(DataConfig(train=train, validation=validation, classes=file)).validation
    assert found is not None
    assert (found.classes, found.labels.tolist()) == (("run", "jump"), [0, 1])
    with pytest.raises(DataError, match="label '0' is none of the 2 classes"):
        open_data(DataConfig(train=folders(tmp_path / "c", "3", "7"), validation=validation))


def test_a_class_named_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names 'run' twice, as classes 0 and 2"):
        read_videos(folders(tmp_path / "a", "run"), classes=labels_file(tmp_path, "run", "jump", "run"))
