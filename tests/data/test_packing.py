"""Packed videos are those that were packed, also after the packing was killed on its way."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import moving_pictures, write_video

from timesformer_jax.cli import main
from timesformer_jax.data.batches import TrainingBatches
from timesformer_jax.data.classes import Classes
from timesformer_jax.data.config import ClipShape, DataConfig
from timesformer_jax.data.packing import pack
from timesformer_jax.data.shards import PackedVideos
from timesformer_jax.data.sources import read_videos
from timesformer_jax.data.videos import Videos
from timesformer_jax.errors import DataError, VideoError
from timesformer_jax.video.reading import read_by_rule

COUNT = 7


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of six videos and a folder of pictures, in three classes."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(COUNT - 1):
        write_video(folder / f"{number}.mp4", moving_pictures(16 + number, 32, 48, seed=number))
    (folder / "frames").mkdir()
    for number, frame in enumerate(moving_pictures(12, 32, 48, seed=9)):
        Image.fromarray(frame).save(folder / "frames" / f"{number}.png")
    names = [f"{number}.mp4" for number in range(COUNT - 1)] + ["frames"]
    (folder / "list.txt").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def frames_of(videos: Videos, index: int) -> np.ndarray:
    return read_by_rule(videos.open(index), lambda total, fps: np.arange(total))


@pytest.fixture(scope="module")
def packed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "shards"
    pack(read_videos(str(source / "list.txt")), folder, shards=3)
    return folder


def test_the_same_videos_come_out(source: Path, packed: Path) -> None:
    files, shards = read_videos(str(source / "list.txt")), read_videos(str(packed))
    assert isinstance(shards, PackedVideos)
    assert (len(shards), shards.classes, shards.fingerprint) == (COUNT, files.classes, files.fingerprint)
    for index in range(COUNT):
        assert (shards.name(index), shards.label(index)) == (files.name(index), files.label(index))
        np.testing.assert_array_equal(frames_of(shards, index), frames_of(files, index))
    manifest = json.loads((packed / "manifest.json").read_text())
    assert [row["videos"] for row in manifest["shards"]] == [2, 2, 3]
    assert (manifest["videos"], manifest["left_out"], manifest["classes"]) == (COUNT, [], ["0", "1", "2"])
    assert {file.name for file in packed.iterdir()} == {"manifest.json", *(row["file"] for row in manifest["shards"])}


def test_training_on_shards_is_training_on_the_files(source: Path, packed: Path, tmp_path: Path) -> None:
    clip = ClipShape(3, 16, 16, 4)
    streams = [
        TrainingBatches(
            *(read_videos(str(path)), DataConfig(workers=workers)),
            **{"clip": clip, "batch_size": 4, "seed": 1, "bad_list": tmp_path / "bad.txt"},
        )
        for path, workers in ((source / "list.txt", 0), (packed, 1))
    ]
    for _ in range(4):
        one, other = map(next, streams)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    for stream in streams:
        stream.close()
    streams[1].set_state(streams[0].get_state())


def test_what_can_not_be_decoded_is_left_out(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(source, tmp_path / "videos")
    (tmp_path / "videos" / "1.mp4").write_text("no video")
    (tmp_path / "videos" / "3.mp4").unlink()
    assert main(["pack", str(tmp_path / "videos" / "list.txt"), str(tmp_path / "out"), "--shards", "2"]) == 0
    errors = capsys.readouterr().err
    assert "left out: 1.mp4" in errors
    assert "3.mp4 can't be read: No such file" in errors, "the reason"
    assert "5 videos in 2 shards" in errors
    shards = PackedVideos.open_folder(str(tmp_path / "out"))
    assert [shards.name(i) for i in range(5)] == ["0.mp4", "2.mp4", "4.mp4", "5.mp4", "frames"]
    assert shards.labels.tolist() == [0, 2, 1, 2, 0]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["left_out"] == ["1.mp4", "3.mp4"]


def test_packing_goes_on_where_it_stopped(source: Path, packed: Path, tmp_path: Path) -> None:
    """What is finished stays as it is; the result is that of a run without a stop, byte for byte."""
    videos = read_videos(str(source / "list.txt"))

    def interrupt(done: int) -> None:
        counted.append(done)
        if len(counted) == 4:
            raise KeyboardInterrupt

    counted: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        pack(videos, tmp_path / "out", shards=3, threads=1, progress=interrupt)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(DataError):
        read_videos(str(tmp_path / "out"))
    finished = tmp_path / "out" / "videos-00000-of-00003.array_record"
    before = finished.stat().st_mtime_ns
    (tmp_path / "out" / ".videos-00001-of-00003.array_record.killed").mkdir()
    with pytest.raises(DataError, match="the beginning of another packing"):
        pack(videos, tmp_path / "out", shards=2)
    pack(videos, tmp_path / "out", shards=3, progress=lambda done: None)
    assert finished.stat().st_mtime_ns == before
    assert contents(tmp_path / "out") == contents(packed)
    with pytest.raises(DataError, match="holds packed videos already"):
        pack(videos, tmp_path / "out", shards=3)


def test_a_folder_of_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(DataError, match="is not empty"):
        pack(read_videos(str(source / "list.txt")), tmp_path, shards=3)
    assert contents(tmp_path) == {"thesis.txt": b"two years of work"}
    with pytest.raises(DataError, match="7 videos can't be packed into 8 shards"):
        pack(read_videos(str(source / "list.txt")), tmp_path / "new", shards=8)


def test_damaged_shards(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(packed, folder)
    shard = folder / "videos-00001-of-00003.array_record"
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    with pytest.raises(DataError, match=rf"{shard.name} has {len(data) - 100} bytes instead of {len(data)}"):
        read_videos(str(folder))
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard.name} is missing"):
        read_videos(str(folder))
    shard.write_bytes(b"\0" * len(data))
    videos = read_videos(str(folder))
    with pytest.raises(VideoError, match=r"Video 2 in .* can't be read: the shard is damaged"):
        videos.open(2)
    assert videos.name(2) == "2.mp4"  # the manifest knows it
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, message in (
        ({"version": 3}, "no manifest of packed videos of version 1 or 2"),
        ({"version": 2}, "is damaged"),
        ({"shards": None}, "is damaged"),
        ({"labels": [0]}, "is damaged: 1 labels for its shards"),
        ({"names": ["0.mp4"]}, "is damaged"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(DataError, match=message):
            read_videos(str(folder))
    with pytest.raises(DataError, match="from a mounted file system only"):
        PackedVideos.open_folder("gs://bucket/shards")


def test_other_classes_than_those_of_training(packed: Path) -> None:
    with pytest.raises(DataError, match="was packed with other classes than those of training"):
        read_videos(str(packed), known=Classes(("run", "jump")))


def test_packed_classes_are_matched_by_name(source: Path, tmp_path: Path) -> None:
    """However they were numbered when they were packed."""
    for name, folder in (("0.mp4", "7"), ("1.mp4", "10"), ("2.mp4", "3")):
        (tmp_path / "videos" / folder).mkdir(parents=True)
        shutil.copy(source / name, tmp_path / "videos" / folder / "a.mp4")
    pack(read_videos(str(tmp_path / "videos")), tmp_path / "out", shards=1)
    packed = read_videos(str(tmp_path / "out"))
    assert (packed.classes, packed.labels.tolist()) == (("3", "7", "10"), [2, 0, 1])
    known = Classes(("10", "3", "5", "7"))  # those of training, in an order of its own
    found = read_videos(str(tmp_path / "out"), known=known)
    assert (found.classes, found.labels.tolist()) == (known.names, [0, 1, 3])
    assert found.fingerprint != packed.fingerprint
    np.testing.assert_array_equal(frames_of(found, 1), frames_of(packed, 1))
    (tmp_path / "names.txt").write_text("".join(f"sport {i}\n" for i in range(11)))
    named = read_videos(str(tmp_path / "out"), classes=str(tmp_path / "names.txt"))
    assert (named.ordered, named.labels.tolist()) == (True, [10, 3, 7])
    with pytest.raises(DataError, match="these lack '10'"):
        read_videos(str(tmp_path / "out"), known=Classes(("3", "7")))


@pytest.mark.slow
def test_packing_survives_being_killed(source: Path, tmp_path: Path) -> None:
    """Kill -9 at ten moments; in the end the shards are those of a run that was let alone."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(300):
        shutil.copy(source / f"{number % 6}.mp4", videos / f"{number}.mp4")
    (videos / "list.txt").write_text("".join(f"{number}.mp4 {number % 5}\n" for number in range(300)))
    command = [sys.executable, "-m", "timesformer_jax.cli", "pack", str(videos / "list.txt"), "--shards", "30"]
    assert subprocess.run([*command, str(tmp_path / "calm")], check=False).returncode == 0
    rng = np.random.default_rng(0)
    killed = 0
    for _ in range(10):
        process = subprocess.Popen([*command, str(tmp_path / "killed")])
        # The start of Python takes most of the time; what matters begins with the first file.
        while process.poll() is None and not (tmp_path / "killed").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    subprocess.run([*command, str(tmp_path / "killed")], check=False)
    assert contents(tmp_path / "killed") == contents(tmp_path / "calm")
