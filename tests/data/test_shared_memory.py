"""Shared memory between the processes that decode videos and this one: what it takes, and where there is too little."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from videos import moving_pictures, write_video

from timesformer_jax.data import pipeline
from timesformer_jax.data.batches import EvaluationBatches, TrainingBatches
from timesformer_jax.data.config import ClipShape, DataConfig, Views
from timesformer_jax.data.sources import read_videos
from timesformer_jax.errors import TrainingError

CLIP = ClipShape(4, 96, 96, 2)  # 110,592 bytes: large enough for shared memory
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for label in range(2):
        (folder / str(label)).mkdir()
        write_video(folder / str(label) / "0.mp4", moving_pictures(12, 100, 100, seed=label))
    return folder


def open_batches(listed: Path, workers: int) -> TrainingBatches:
    config = DataConfig(workers=workers, prefetch=2)
    return TrainingBatches(
        read_videos(str(listed)), config, clip=CLIP, batch_size=2, seed=0, bad_list=listed.parent / "bad.txt"
    )


def test_what_the_workers_may_take() -> None:
    size = CLIP.bytes
    assert size == 4 * 96 * 96 * 3
    # Each worker's two clips in store, one in hand and one being handed over; two batches of sixteen.
    assert pipeline.shared_bytes(DataConfig(workers=3, prefetch=2), 16, size) == (3 * 4 + 32) * (size + 4096)
    assert pipeline.shared_bytes(DataConfig(workers=0), 16, size) == 0
    assert pipeline.shared_bytes(DataConfig(workers=3), 16, 1000) == 0  # through pipes in any case


def test_too_little_is_said_and_clips_go_through_pipes(
    listed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options: list[int] = []

    def start(samples: Any, config: DataConfig, needed: int) -> Any:
        options.append(needed)
        return (pipeline._has_room(needed), iter([]))[1]  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**20, 2**20, 2**19))
    monkeypatch.setattr(pipeline, "_start", start)
    for _ in range(2):  # said once
        with pytest.raises(StopIteration):
            next(open_batches(listed, workers=1))
    said = " ".join(capsys.readouterr().err.split())
    assert options == [(1 * 4 + 2 * 2) * (CLIP.bytes + 4096)] * 2
    assert said.count("/dev/shm has 0.5 MiB free, and the processes that decode videos may need 1:") == 1
    assert "`mount -o remount,size=2m /dev/shm` or `docker run --shm-size=2m`, and --data.workers 0 needs none" in said


def test_a_worker_that_dies_may_have_found_too_little(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def died() -> Any:
        raise RuntimeError("Worker process was terminated unexpectedly with exit code -7")
        yield

    monkeypatch.setattr(pipeline, "_start", lambda *_: died())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 * 2**20, 0, 2**19))
    with pytest.raises(TrainingError, match=r"the room in /dev/shm \(0.5 of 64.0 MiB are free now; `mount -o remount"):
        next(open_batches(listed, workers=1))


def test_views_of_a_video_count(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(pipeline, "_start", lambda samples, config, needed: seen.append(needed) or iter([]))
    views, config = Views(clips=2, crops=3), DataConfig(workers=1, prefetch=1)
    with pytest.raises(StopIteration):
        next(EvaluationBatches(read_videos(str(listed)), config, clip=CLIP, batch_size=2, views=views))
    assert seen == [(1 * 3 + 2 * 2) * (6 * CLIP.bytes + 4096)]


@pytest.mark.slow
def test_a_container_with_little_shared_memory(listed: Path, tmp_path: Path) -> None:
    """The same batches as ever, in a namespace whose /dev/shm holds no more than two clips."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import numpy as np
from test_shared_memory import open_batches

if __name__ == "__main__":
    batches = open_batches(Path({str(listed)!r}), workers=2)
    np.save({str(tmp_path / "frames.npy")!r}, [next(batches)["frames"] for _ in range(4)])
    batches.close()
"""
    (tmp_path / "script.py").write_text(code)
    mounted = "mount -t tmpfs -o size=300k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("no namespace can be made here")
    command = ["unshare", "-rm", "sh", "-c", f"{mounted} && exec {sys.executable} {tmp_path / 'script.py'}"]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths}
    )
    assert result.returncode == 0, result.stderr
    assert "/dev/shm has 0.3 MiB free" in result.stderr
    batches = open_batches(listed, workers=0)
    expected = [next(batches)["frames"] for _ in range(4)]
    batches.close()
    np.testing.assert_array_equal(np.load(tmp_path / "frames.npy"), expected)
