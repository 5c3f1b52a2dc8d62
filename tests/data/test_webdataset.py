"""WebDataset shards, written by its own library or by hand: read in place, told from damage, refused in a sentence."""

import gc
import io
import json
import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import fsspec
import pytest
import webdataset
from batch_streams import CLIP, assert_same, streams
from videos import moving_pictures, write_video

from timesformer_jax.data.bad_videos import BadVideos
from timesformer_jax.data.batches import EvaluationBatches
from timesformer_jax.data.config import DataConfig, Views
from timesformer_jax.data.packing import pack
from timesformer_jax.data.sources import read_videos
from timesformer_jax.data.videos import Videos
from timesformer_jax.data.webdataset import TarVideos
from timesformer_jax.errors import DataError, VideoError

COUNT = 7


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("clips")
    return [
        write_video(folder / f"{seed}.mp4", moving_pictures(16 + seed, 32, 48, seed=seed)).read_bytes()
        for seed in range(COUNT)
    ]


def write_tar(path: Path, members: list[tuple[str, bytes]], kind: int = tarfile.GNU_FORMAT, mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def shards(clips: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven samples in three shards, with their classes as numbers, as WebDataset writes them."""
    folder = tmp_path_factory.mktemp("shards")
    with webdataset.ShardWriter(str(folder / "train-%04d.tar"), maxcount=3, verbose=0) as writer:
        for number, data in enumerate(clips):
            writer.write({"__key__": f"sample{number:03}", "mp4": data, "cls": number % 3, "json": {"caption": "x"}})
    return folder


def listed(videos: Videos) -> list[tuple[str, str]]:
    return [(videos.name(i), videos.classes[videos.label(i)]) for i in range(len(videos))]


def data_of(videos: Videos, index: int) -> bytes:
    return videos.open(index).data  # type: ignore[union-attr]


def test_what_webdataset_writes(shards: Path, clips: list[bytes]) -> None:
    videos = read_videos(str(shards))
    assert isinstance(videos, TarVideos)
    assert videos.classes == ("0", "1", "2")
    assert listed(videos) == [(f"train-{i // 3:04}.tar/sample{i:03}.mp4", str(i % 3)) for i in range(COUNT)]
    assert [data_of(videos, i) for i in range(COUNT)] == clips
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves the files to the garbage collector
        theirs = webdataset.WebDataset([str(path) for path in sorted(shards.iterdir())], shardshuffle=False)
        assert [sample["mp4"] for sample in theirs] == clips
        del theirs
        gc.collect()


@pytest.mark.parametrize(
    "pattern", ["train-{0000..0002}.tar", "train-*.tar", "train-{0000,0001,0002}.tar", "train-000{0..2}.tar"]
)
def test_patterns_name_the_same(shards: Path, pattern: str) -> None:
    videos = read_videos(f"{shards}/{pattern}")
    assert (listed(videos), videos.fingerprint) == (
        listed(read_videos(str(shards))),
        read_videos(str(shards)).fingerprint,
    )
    assert len(read_videos(f"{shards}/train-{{0001..0002}}.tar")) == COUNT - 3
    assert len(read_videos(f"{shards}/train-0002.tar")) == 1


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_keys_are_those_of_webdataset(tmp_path: Path, clips: list[bytes], kind: int) -> None:
    """The path up to the first dot of the file name; suffixes in any case; what has none, or is hidden, is no part."""
    long = "x" * 120 if kind != tarfile.USTAR_FORMAT else "x"
    members = [
        *(("./a.1/b.MP4", clips[0]), ("./a.1/b.CLS", b"run\n")),
        *(("README", b"hello"), (".hidden.mp4", b"no"), ("sub/.DS_Store", b"no")),
        *(("b.left.webm", clips[1]), ("b.json", b'{"label": "jump", "n": 3}')),
        *((f"{long}.txt", b"run"), (f"{long}.mp4", clips[2])),  # the label may come first
        *(("c.mp4", clips[3]), ("c.left.mp4", clips[0]), ("c.json", b'"jump"')),
        *(("ümlaut.mkv", clips[4]), ("ümlaut.json", b'{"class": "run", "label": null}')),
    ]
    path = write_tar(tmp_path / "a.tar", [member for member in members if not member[0].endswith(".txt")], kind)
    with pytest.raises(DataError, match=rf"sample {long} has no label; .cls, .txt or .json .* beside the video"):
        read_videos(str(path))
    members = [(name.replace(".txt", ".json"), b'"run"' if name.endswith(".txt") else data) for name, data in members]
    members[1] = ("./a.1/b.json", b'{"category": "run"}')
    videos = read_videos(str(write_tar(tmp_path / "a.tar", members, kind)))
    assert listed(videos) == [
        *(("a.tar/a.1/b.mp4", "run"), ("a.tar/b.left.webm", "jump"), (f"a.tar/{long}.mp4", "run")),
        *(("a.tar/c.mp4", "jump"), ("a.tar/ümlaut.mkv", "run")),
    ]
    assert [data_of(videos, i) for i in range(5)] == clips[:5]


@pytest.mark.parametrize("suffix", ["cls", "txt", "json"])
@pytest.mark.parametrize("labels", [["0", "2", "0"], ["run", "riding a bike", "run"]])
def test_each_kind_of_label(tmp_path: Path, clips: list[bytes], suffix: str, labels: list[str]) -> None:
    (tmp_path / "names.txt").write_text("riding a bike\nrun\nswim")
    for number, label in enumerate(labels):
        value: Any = int(label) if label.isdecimal() else label
        data = json.dumps({"label": value}) if suffix == "json" else label
        members = [(f"{number}.mp4", clips[number]), (f"{number}.{suffix}", data.encode())]
        write_tar(tmp_path / "tars" / f"{number}.tar", members)
    assert [label for _, label in listed(read_videos(str(tmp_path / "tars")))] == labels
    named = read_videos(str(tmp_path / "tars"), classes=str(tmp_path / "names.txt"))
    assert named.classes == ("riding a bike", "run", "swim")
    assert named.labels.tolist() == ([0, 2, 0] if labels[0] == "0" else [1, 0, 1])


def test_training_is_that_on_files_and_goes_on_anywhere(shards: Path, clips: list[bytes], tmp_path: Path) -> None:
    for number, data in enumerate(clips):
        (tmp_path / f"{number}.mp4").write_bytes(data)
    (tmp_path / "list.txt").write_text("".join(f"{number}.mp4 {number % 3}\n" for number in range(COUNT)))
    wanted = streams(read_videos(str(tmp_path / "list.txt")), tmp_path / "bad.txt")
    videos = read_videos(str(shards))
    assert_same(streams(videos, tmp_path / "bad.txt"), wanted)
    assert_same(streams(videos, tmp_path / "bad.txt", start=2)[:1], wanted[2:])
    pack(videos, tmp_path / "packed", shards=2)
    packed = read_videos(str(tmp_path / "packed"))
    assert packed.fingerprint == videos.fingerprint
    assert_same(streams(packed, tmp_path / "bad.txt"), wanted)


@pytest.mark.slow
def test_worker_processes_give_the_same(shards: Path, tmp_path: Path) -> None:
    videos = read_videos(str(shards))
    assert_same(streams(videos, tmp_path / "bad.txt", workers=2), streams(videos, tmp_path / "bad.txt"))


def test_damaged_videos_are_listed_and_the_others_go_on(shards: Path, clips: list[bytes], tmp_path: Path) -> None:
    for path in shards.iterdir():
        shutil.copy(path, tmp_path)
    shard = tmp_path / "train-0001.tar"
    data = bytearray(shard.read_bytes())
    start = data.index(clips[4])
    data[start : start + len(clips[4])] = b"\xff" * len(clips[4])
    shard.write_bytes(data)
    videos = read_videos(str(tmp_path / "train-*.tar"))
    evaluation = EvaluationBatches(
        *(videos, DataConfig(workers=0)),
        **{"clip": CLIP, "batch_size": COUNT, "views": Views(crops=1), "bad_list": tmp_path / "bad.txt"},
    )
    (batch,) = evaluation
    assert batch["valid"].tolist() == [number != 4 for number in range(COUNT)]
    assert BadVideos(tmp_path / "bad.txt").names() == {"train-0001.tar/sample004.mp4"}
    streams(videos, tmp_path / "bad_training.txt")
    assert BadVideos(tmp_path / "bad_training.txt").names() == {"train-0001.tar/sample004.mp4"}
    # What was cut off after the index was made is a matter of its videos alone.
    shard.write_bytes(data[: start - 100])
    with pytest.raises(VideoError, match=r"train-0001.tar ends \d+ bytes too early"):
        videos.open(4)
    shard.unlink()
    with pytest.raises(VideoError, match="No such file"):
        videos.open(3)
    assert data_of(videos, 6) == clips[6]


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_a_tar_file_that_was_cut_short(shards: Path, tmp_path: Path, cut: float) -> None:
    data = (shards / "train-0000.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: int(cut * len(data.rstrip(b"\0")))])
    with pytest.raises(DataError, match=r"a.tar is no tar file, or damaged \(.*\); copy it again"):
        read_videos(str(tmp_path / "a.tar"))


def test_damage_between_members_hides_none(
    clips: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a header is damaged, Python's tarfile takes it for the end."""
    members = [
        (f"{number}.{suffix}", data) for number in range(3) for suffix, data in (("mp4", clips[0]), ("cls", b"0"))
    ]
    path = write_tar(tmp_path / "a.tar", members)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        places = [member.offset for member in tar]
    data[places[2] : places[2] + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a.tar is damaged after 2 members"):
        read_videos(str(path))
    write_tar(path, members)
    path.write_bytes(path.read_bytes()[: places[4]])
    assert len(read_videos(str(path))) == 2
    assert "has no mark of its end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.txt", b"run")], "holds no videos: samples such as x.mp4 with x.cls"),
        ([("a.mp4", b"v"), ("a.jpg", b"p")], r"sample a has no label; .* \(there is: jpg\)"),
        ([("a.mp4", b"v")], r"\(there is: nothing\)"),
        ([("a.mp4", b"v"), ("a.json", b'{"caption": "a dog"}')], r"sample a has no label"),
        ([("a.mp4", b"v"), ("a.json", b"{label: 3}")], "a.json is no JSON"),
        ([("a.mp4", b"v"), ("a.cls", b"\xff\xfe")], "a.cls is no text"),
        ([("a.mp4", b"v"), ("a.cls", b"")], "a.cls holds '' where one class name"),
        ([("a.mp4", b"v"), ("a.txt", b"a dog\nruns")], "a.txt holds 'a dog"),
        ([("a.mp4", b"v"), ("a.json", b'{"label": [1, 2]}')], r"a.json holds '\[1, 2\]' where"),
        ([("a.mp4", b"v"), ("a.json", b'{"label": true}')], "a.json holds 'True' where"),
        ([("a.mp4", b"v"), ("a.webm", b"v"), ("a.cls", b"0")], r"sample a holds several videos \(mp4, webm\)"),
        ([("a.mp4", b"v"), ("a.cls", b"0"), ("a.mp4", b"w")], "holds a.mp4 twice"),
        ([("a.mp4", b"v"), ("a.cls", b"0"), ("b.mp4", b"v"), ("b.txt", b"run")], "the label of .*b.mp4 is in its .txt"),
        ([("a.mp4", b"v"), ("a.cls", b"0"), ("b.mp4", b"v"), ("b.cls", b"run")], "label 'run' is a name, but others"),
        ([(f"{i}.{s}", d) for i in range(30) for s, d in (("mp4", b"v"), ("txt", b"dog %d" % i))], "look like descr"),
    ],
)
def test_what_is_wrong_with_samples_is_said(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=message) as caught:
        read_videos(str(path))
    assert "a.tar" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "name", "kind"), [("w:gz", "a.tar.gz", "gzip"), ("w:xz", "a.tar", "xz"), ("w:bz2", "a.tar", "bz")]
)
def test_compressed_tar_files_are_refused(tmp_path: Path, clips: list[bytes], mode: str, name: str, kind: str) -> None:
    path = write_tar(tmp_path / name, [("a.mp4", clips[0]), ("a.cls", b"0")], mode=mode)
    with pytest.raises(DataError, match=rf"is compressed \({kind}.*\), so nothing in it can be read in place"):
        read_videos(str(path))


def test_patterns_and_files_that_are_missing(shards: Path, tmp_path: Path) -> None:
    for source, message in (
        (f"{shards}/train-{{0000..0003}}.tar", "train-0003.tar does not exist"),
        (f"{tmp_path}/none-*.tar", "stands for no file"),
        (f"{tmp_path}/none.tar", "does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            read_videos(source)
    (tmp_path / "text.tar").write_text("404 not found" * 100)
    with pytest.raises(DataError, match="no tar file, or damaged"):
        read_videos(str(tmp_path / "text.tar"))


def test_samples_without_a_video_are_counted(
    tmp_path: Path, clips: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    members = [("a.mp4", clips[0]), ("a.cls", b"0"), ("b.jpg", b"p"), ("b.cls", b"0"), ("c.cls", b"1")]
    assert len(read_videos(str(write_tar(tmp_path / "a.tar", members)))) == 1
    assert "2 samples hold no video and are left out, b for one" in capsys.readouterr().err


def test_shards_of_one_name_in_two_folders(tmp_path: Path, clips: list[bytes]) -> None:
    for folder in ("x", "y"):
        write_tar(tmp_path / folder / "a.tar", [("a.mp4", clips[folder == "y"]), ("a.cls", b"0")])
    videos = read_videos(f"{tmp_path}/{{x,y}}/a.tar")
    assert [data_of(videos, i) for i in range(2)] == clips[:2]
    assert videos.name(0) != videos.name(1)


def test_class_folders_beside_a_tar_file_stay_class_folders(tmp_path: Path, clips: list[bytes]) -> None:
    write_tar(tmp_path / "all.tar", [("a.mp4", clips[0]), ("a.cls", b"0")])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "b.mp4").write_bytes(clips[1])
    assert listed(read_videos(str(tmp_path))) == [("run/b.mp4", "run")]


def test_behind_a_url(shards: Path, clips: list[bytes]) -> None:
    memory = fsspec.filesystem("memory")
    for path in shards.iterdir():
        memory.pipe(f"/tars/{path.name}", path.read_bytes())
    for source in ("memory://tars", "memory://tars/train-{0000..0002}.tar", "memory://tars/train-*.tar"):
        videos = read_videos(source)
        assert videos.fingerprint == read_videos(str(shards)).fingerprint
        assert [data_of(videos, i) for i in range(COUNT)] == clips
