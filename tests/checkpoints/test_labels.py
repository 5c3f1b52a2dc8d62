"""Label names from files."""

import json
from pathlib import Path

import pytest
from pytorch import torch
from pytorch_checkpoints import original_reference, save_original
from reference import tiny_reference

from timesformer_jax.checkpoints.labels import ClassFile, read_class_file, read_labels
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.errors import CheckpointError

NAMES = ["abseiling", "air drumming", 'pushing "something", left', "ça va", "1", "6", "yoga"]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(NAMES),
        "".join(f"{name} \r\n" for name in NAMES) + "\n\n",
        "\ufeff" + "\n".join(NAMES) + "\n",
        json.dumps(NAMES),
        json.dumps({str(i): name for i, name in enumerate(NAMES)}),
        json.dumps({str(i): name for i, name in reversed(list(enumerate(NAMES)))}),
        json.dumps({name: i for i, name in enumerate(NAMES)}, indent=2),
        json.dumps({name: str(i) for i, name in reversed(list(enumerate(NAMES)))}),
    ],
    ids=["lines", "windows", "marked", "list", "by index", "backwards", "by name", "by name, as texts, backwards"],
)
def test_layouts(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(text.encode())
    labels = read_labels(path)
    assert labels == dict(enumerate(NAMES))
    assert list(labels) == list(range(len(NAMES)))
    checkpoint = load_checkpoint(save_original(tmp_path / "a.pyth", original_reference()), labels=path)
    assert dict(checkpoint.config.id2label) == dict(enumerate(NAMES))
    assert checkpoint.config.label2id["air drumming"] == 1
    assert not str(checkpoint.changes)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "must name the classes"),
        (b"\n\n", "must name the classes"),
        (b"{}", "must name the classes"),
        (b"a\n\nb", "no name for class 1"),
        (b'["a", ""]', "no name for class 1"),
        (b"[1, 2]", "no JSON of labels"),
        (b'{"0": "a", "2": "b"}', "classes 0 to 1"),
        (b'{"a": 0, "b": 0}', "no JSON of labels"),
        (b'{"a": 0, "b": 2}', "classes 0 to 1"),
        (b'{"a": 0.5}', "no JSON of labels"),
        (b'{"a": [1]}', "no JSON of labels"),
        (b'{"a": "x"}', "no JSON of labels"),
        (b'["a"', "no JSON of labels"),
        (b"[" * 100_000, "no JSON of labels"),
        (b"\xff\xfe\x00a", "is no text"),
    ],
)
def test_other_files(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=problem) as error:
        read_labels(path)
    assert str(path) in str(error.value)


WALKS = ["abseiling", "bend/bow (at the waist)", "talk to (e.g., self, a group)", "yoga"]


@pytest.mark.parametrize(
    ("content", "first"),
    [
        ("".join(f"{i} {name}\n" for i, name in enumerate(WALKS)), 0),
        ("".join(f"{i}: {name}\n" for i, name in reversed(list(enumerate(WALKS)))), 0),
        ("".join(f"{i}\t{name}\r\n" for i, name in enumerate(WALKS, 1)), 1),
        ("".join(f"{i}. {name}\n" for i, name in enumerate(WALKS, 1)), 1),
        ("".join(f"{name} {i}\n" for i, name in enumerate(WALKS)), 0),
        ("".join(f"{name}\t{i}\n" for i, name in enumerate(WALKS, 1)), 1),
        ("id,name\n" + "".join(f'{i},"{name}"\n' for i, name in enumerate(WALKS)), 0),
        ("name;class_id\n" + "".join(f"{name};{i}\n" for i, name in enumerate(WALKS)), 0),
        ("label\tclass\n" + "".join(f"{i}.0\t{name}\n" for i, name in enumerate(WALKS, 1)), 1),
        (",label\n" + "".join(f'{i},"{name}"\n' for i, name in enumerate(WALKS)), 0),
        ("id name\n" + "".join(f"{i} {name}\n" for i, name in enumerate(WALKS)), 0),
        ("".join(f'"{name}"\n' for name in WALKS), 0),
        (json.dumps({f'"{name}"': i for i, name in enumerate(WALKS)}), 0),
        (json.dumps({str(i): name for i, name in enumerate(WALKS, 1)}), 1),
        (json.dumps({name: i for i, name in enumerate(WALKS, 1)}), 1),
        (json.dumps([{"id": i, "name": name} for i, name in enumerate(WALKS)]), 0),
    ],
)
def test_names_with_numbers(content: str, first: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels").write_bytes(content.encode())
    assert read_class_file(tmp_path / "labels") == ClassFile(tuple(WALKS), first)
    assert ("counts its classes from 1" in capsys.readouterr().err) == (first == 1)


def test_the_class_file_of_ucf(tmp_path: Path) -> None:
    (tmp_path / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n3 Archery\r\n")
    assert read_labels(tmp_path / "classInd.txt") == {0: "ApplyEyeMakeup", 1: "ApplyLipstick", 2: "Archery"}


@pytest.mark.parametrize(
    "names",
    [
        ["gesture 1", "gesture 2", "gesture 3"],
        ["1 finger", "2 finger", "3 finger"],
        ["0", "1", "2"],
        ["7", "3"],
        ["walk 5 km", "run 3 miles", "3 point turn"],
        ["path 7", "route 66"],
        ['"a" or "b"', "c"],
        ["Pushing something, left", "id, name"],
    ],
)
def test_numbers_in_names_are_a_part_of_them(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("\n".join(names))
    assert list(read_labels(tmp_path / "labels").values()) == names


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("0 run\n1 jump\n3 swim", r"numbers its classes 0 to 3, but has 3 of them"),
        ("5,run\n6,jump", "numbers its classes 5 to 6, but has 2"),
        ("0 run\n0 jump", "numbers its classes 0 to 0"),
        ("id,name\n0,run\n0,jump", r"names class 0 twice \('run' and 'jump'\)"),
        ("id,name\n0,run\n2,jump", "classes 0 to 1, each once; it has no class 1"),
        ("names:\n0: run\n1: jump", "line 1: 'names:' has no number"),
        ("0 run\n1 jump\nswim", "line 3: 'swim' has no number"),
        ("name\nrun\njump", "line 1: 'name' looks like the heading"),
        ('item {\n name: "run"\n id: 1\n}', "is a label map"),
        ('{"run": 0, "run": 1}', "names 'run' twice"),
        ('{"0": "run", "0": "jump"}', "names '0' twice"),
        ('[{"id": 0, "title": "run"}]', "has an id and a name for each"),
    ],
)
def test_class_files_that_are_in_doubt(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text(content)
    with pytest.raises(CheckpointError, match=problem) as error:
        read_labels(tmp_path / "labels")
    assert "\n" not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can't be read: No such file"):
        read_labels(tmp_path / "none")
    with pytest.raises(CheckpointError, match="can't be read: Is a directory"):
        read_labels(tmp_path)


def test_as_many_names_as_classes(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.write_text("a\nb\nc\n")
    path = save_original(tmp_path / "a.pyth", original_reference())
    with pytest.raises(CheckpointError, match=r"names 3 classes, but .*a\.pyth has 7"):
        load_checkpoint(path, labels=labels)
    with pytest.raises(CheckpointError, match=r"names 3 classes, but .*a\.pyth has 4"):
        load_checkpoint(path, labels=labels, num_labels=4)
    checkpoint = load_checkpoint(path, labels=labels, num_labels=3)
    assert checkpoint.config.id2label[2] == "c"
    assert checkpoint.changes.new == ["classifier/kernel", "classifier/bias"]


def test_names_make_a_classifier_where_there_is_none(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.write_text("a\nb\nc\n")
    tiny_reference(head=False, dtype=torch.float32).save_pretrained(tmp_path / "bare")
    checkpoint = load_checkpoint(tmp_path / "bare", labels=labels)
    assert checkpoint.params["classifier"]["kernel"].shape == (24, 3)
    assert checkpoint.config.num_labels == 3
