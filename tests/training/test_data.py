"""The lists of videos are read once, however often a run validates."""

from collections import Counter
from pathlib import Path

import fsspec
import pytest
from counted_reads import reads
from runs import recipe, videos

from timesformer_jax.training.data import DataConfig
from timesformer_jax.training.loop import train

__all__ = ["reads", "videos"]  # fixtures


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
