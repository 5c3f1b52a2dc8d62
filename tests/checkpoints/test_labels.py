"""Label names from files."""

import json
from pathlib import Path

import pytest
from pytorch import torch
from pytorch_checkpoints import original_reference, save_original
from reference import tiny_reference

from timesformer_jax.checkpoints.labels import read_labels
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
