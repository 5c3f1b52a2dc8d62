"""The rows of a classifier follow the names of the classes, or are new, and which is said."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_flax import tiny_flax

from timesformer_jax import TimesformerForVideoClassification
from timesformer_jax.checkpoints.class_rows import match_rows
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.training.initial_model import start_from_recipe
from timesformer_jax.training.recipe import ModelOptions


@pytest.mark.parametrize(
    ("found", "wanted", "rows", "remark"),
    [
        ("walk run", "walk run", (0, 1), ""),
        (
            "walk run",
            "run walk",
            (1, 0),
            "^classifier: rows follow the names of the classes$",
        ),
        ("a b c", "c a", (2, 0), "rows follow the names"),
        ("walk run", "Run WALK", (1, 0), "the names of the classes, 'Run' from 'run', 'WALK' from 'walk'"),
        ("air_drumming Bee-Keeping", "bee_keeping air-drumming", (1, 0), "rows follow the names"),
        ("Walk walk", "walk Walk", (1, 0), "rows follow the names"),
        ("Walk walk", "WALK run", (None, None), "it knows none of the classes 'WALK', 'run'; it knows 'Walk', 'walk'"),
        (
            "walk walk run",
            "run walk jump",
            (2, None, None),
            "rows of 1 of 3 classes follow their names; new, to be trained",
        ),
        ("walk run jump", "jump swim walk", (2, None, 0), "rows of 2 of 3 classes follow .* those of 'swim'"),
        ("walk run", "jump swim sit", (None,) * 3, "it knows none of the classes 'jump', 'swim', 'sit'; it knows 'wal"),
        ("walk run", "jump swim", (None, None), "it knows none of the classes"),
        # Numbers: a name that was made up says no more than its number.
        ("LABEL_0 LABEL_1", "walk run", (0, 1), "rows kept by number, 'walk' from 'LABEL_0', 'run' from 'LABEL_1'"),
        ("walk run", "0 1", (0, 1), "rows kept by number, '0' from 'walk'"),
        ("walk run", "1 0", (1, 0), "rows kept by number, '1' from 'run'"),
        ("1 0", "walk run", (1, 0), "rows kept by number, 'walk' from '0'"),
        ("LABEL_0 LABEL_1", "1 0", (1, 0), "rows follow the names of the classes, '1' from 'LABEL_1'"),
        ("walk run", "3 7", (None, None), "it knows none of the classes '3', '7'"),
        ("3 7", "walk run", (None, None), "it knows none of the classes 'walk', 'run'"),
        ("3 7", "7 3", (1, 0), "rows follow the names"),
        ("LABEL_0 LABEL_1", "LABEL_0 LABEL_1 LABEL_2", (None,) * 3, ""),
        ("walk run", "LABEL_0 LABEL_1 LABEL_2", (None,) * 3, ""),
        ("LABEL_0 LABEL_1 LABEL_2", "1 2", (None, None), ""),
    ],
)
def test_rows(found: str, wanted: str, rows: Any, remark: str) -> None:
    matched = match_rows(dict(enumerate(found.split())), dict(enumerate(wanted.split())))
    assert matched.rows == rows
    assert (matched.remark is None) == (not remark)
    assert re.search(remark, matched.remark or "")


def test_long_lists_are_cut_and_quickly_matched() -> None:
    names = [f"name {i}" for i in range(60_000)]
    matched = match_rows(dict(enumerate(names)), {i: name.upper() for i, name in enumerate(reversed(names))})
    assert matched.rows == tuple(reversed(range(60_000)))
    assert str(matched.remark).endswith("'NAME 59995' from 'name 59995' and 59995 more")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, params = tiny_flax("space_only", dtype=np.float32, num_labels=None, id2label={0: "walk", 1: "run", 2: "sit"})
    directory = tmp_path_factory.mktemp("named") / "model"
    model.save_pretrained(directory, params)
    return directory


def test_rows_stay_with_their_names(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    def rows(**options: Any) -> dict[str, list[float]]:
        model, params = TimesformerForVideoClassification.from_pretrained(saved, **options)
        head = params["classifier"]
        assert head["kernel"].shape[1] == model.config.num_labels
        return {
            name: [*head["kernel"][:, i].tolist(), float(head["bias"][i])] for i, name in model.config.id2label.items()
        }

    before = rows()
    assert not caplog.messages
    assert rows(id2label={0: "sit", 1: "walk", 2: "run"}) == before
    assert "rows follow the names of the classes" in caplog.messages[0]
    some = rows(id2label={0: "run", 1: "swim"})
    assert some["run"] == before["run"]
    assert "rows of 1 of 2 classes follow their names; new, to be trained: those of 'swim'" in caplog.messages[1]
    new = rows(id2label={0: "a", 1: "b", 2: "c"})
    assert not any(row in new.values() for row in before.values())
    assert "new, to be trained: classifier/kernel, classifier/bias; classifier: it knows none" in caplog.messages[2]


def test_a_file_of_names_says_what_the_classes_are(
    saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "names.txt").write_text("gehen\nlaufen\nsitzen\n")
    renamed = load_checkpoint(saved, labels=tmp_path / "names.txt")
    assert dict(renamed.config.id2label) == {0: "gehen", 1: "laufen", 2: "sitzen"}
    jax.tree.map(np.testing.assert_array_equal, renamed.params, load_checkpoint(saved).params)
    assert not caplog.messages


def test_training_starts_from_rows_that_follow_the_names(saved: Path) -> None:
    options = ModelOptions(checkpoint=str(saved), sampling_rate=1)
    before = load_checkpoint(saved).params["classifier"]
    start = start_from_recipe(options, ("run", "sit", "swim", "walk"), seed=0)
    assert start.params is not None
    head = start.params["classifier"]
    for place, row in ((0, 1), (1, 2), (3, 0)):
        np.testing.assert_array_equal(head["kernel"][:, place], before["kernel"][:, row])
        assert head["bias"][place] == before["bias"][row]
    assert head["bias"][2] == 0
    assert 0 < np.abs(head["kernel"][:, 2]).max() < 0.1
