"""The lists of videos are read once, however often a run validates."""

from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
from counted_reads import reads
from runs import recipe, videos

from timesformer_jax import TimesformerConfig
from timesformer_jax.data.sources import open_data
from timesformer_jax.data.videos import fingerprint
from timesformer_jax.training.data import DataConfig
from timesformer_jax.training.initial_model import classes_of_run
from timesformer_jax.training.loop import train
from timesformer_jax.training.run_directory import RunDirectory

__all__ = ["reads", "videos"]  # fixtures


def test_a_run_that_an_earlier_version_began_keeps_the_order_of_its_classes(tmp_path: Path) -> None:
    """Numbered folders once stood in the order of their letters: 0, 1, 10, 2."""
    for number in range(11):
        (tmp_path / "videos" / str(number)).mkdir(parents=True)
        (tmp_path / "videos" / str(number) / "a.mp4").write_bytes(b"video")
    run, data = RunDirectory(tmp_path / "run"), DataConfig(train=str(tmp_path / "videos"))
    assert classes_of_run(run) == ()
    new = open_data(data, earlier=classes_of_run(run)).train
    assert new is not None
    assert new.classes == tuple(map(str, range(11)))
    run.model.mkdir(parents=True)
    earlier = sorted(new.classes)
    TimesformerConfig(id2label=dict(enumerate(earlier))).save_json_file(run.model / "config.json")
    going_on = open_data(data, earlier=classes_of_run(run)).train
    assert going_on is not None
    assert going_on.classes == tuple(earlier)
    assert going_on.fingerprint == fingerprint(
        [f"{name}/a.mp4" for name in earlier], np.arange(11, dtype=np.int32), earlier
    )


@pytest.mark.usefixtures("quick_compile")
def test_a_run_with_two_validations_reads_each_list_once(videos: Path, tmp_path: Path, reads: Counter[str]) -> None:
    for split in ("train", "validation"):
        files = sorted((videos / split).glob("*/*.mp4"))
        lines = "".join(f"{file},{file.parent.name}\n" for file in files)
        fsspec.filesystem("memory").pipe(f"/once/{split}.csv", lines.encode())
    data = DataConfig(train="memory://once/train.csv", validation="memory://once/validation.csv", workers=0)
    assert train(recipe(videos, data=data), tmp_path / "run").finished
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("validation_accuracy") == 2
    assert reads == {"/once/train.csv": 1, "/once/validation.csv": 1}
