"""Folders of class folders: what PyAV opens is a video; what is left out is counted and named."""

import shutil
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest
from PIL import Image
from videos import moving_pictures

from timesformer_jax.data import class_folders
from timesformer_jax.data.clips import read_clips
from timesformer_jax.data.config import ClipShape
from timesformer_jax.data.sources import read_videos
from timesformer_jax.errors import DataError

NAMES = [
    *("m2ts", "divx", "f4v", "3g2", "qt", "m2v", "y4m", "mxf", "mpe", "dav", "rm", "ogg", "mjpeg", "h264", "h265"),
    *("hevc", "mk3d", "m2t", "mjpg", "265", "ivf", "wtv", "obu", "apng"),
]
FORMATS = {
    "mp4": ["3g2", "f4v", "qt", "bin", "PART", "", "dat"],
    "avi": ["divx", "xyz"],
    "mpegts": ["m2ts", "m2t", ""],
    "mpeg": ["mpe", "vcd"],
    "h264": ["h264", "264", "raw"],
    "mjpeg": ["mjpeg", "mjpg"],
    "yuv4mpegpipe": ["y4m"],
    "mpeg2video": ["m2v"],
    "matroska": ["mk3d", ""],
}
CODECS = {
    "avi": "mpeg4",
    "mpeg": "mpeg1video",
    "mjpeg": "mjpeg",
    "yuv4mpegpipe": "rawvideo",
    "mpeg2video": "mpeg2video",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A video of 20 frames in each format."""
    import av

    folder = tmp_path_factory.mktemp("formats")
    files: dict[str, Path] = {}
    for name in FORMATS:
        path = folder / name
        with av.open(str(path), "w", format=name) as container:
            stream = container.add_stream(CODECS.get(name, "libx264"), rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuvj420p" if name == "mjpeg" else "yuv420p"
            for picture in moving_pictures(20, 32, 48):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        files[name] = path
    return files


def test_known_suffixes_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    for number, suffix in enumerate(NAMES):
        (tmp_path / "run" / f"{number:02}.{suffix.upper() if number % 2 else suffix}").write_bytes(b"")
    monkeypatch.setattr(class_folders, "open_video", None)
    assert len(read_videos(str(tmp_path))) == len(NAMES)


@pytest.mark.parametrize("container", FORMATS)
def test_what_pyav_opens_is_a_video(tmp_path: Path, written: dict[str, Path], container: str) -> None:
    """Under every name that it goes by, and its clip is read."""
    (tmp_path / "run").mkdir()
    for suffix in FORMATS[container]:
        shutil.copy(written[container], tmp_path / "run" / (f"v.{suffix}" if suffix else "video"))
    videos = read_videos(str(tmp_path))
    assert len(videos) == len(FORMATS[container])
    for index in range(len(videos)):
        frames = read_clips(videos.open(index), ClipShape(4, 16, 16, 4), np.zeros(4))
        assert frames.shape == (4, 32, 48, 3)
        assert len({frame.tobytes() for frame in frames}) == 4


def test_what_is_no_video_is_counted_and_named(
    tmp_path: Path, written: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run", "jump", "empty"):
        (tmp_path / name).mkdir()
    picture = Image.fromarray(moving_pictures(1)[0])
    for suffix in ("jpg", "png", "webp", "avif", "tiff", "bmp", "ico"):
        picture.save(tmp_path / "run" / f"poster.{suffix}")
    picture.save(tmp_path / "run" / "poster", "JPEG")
    picture.save(tmp_path / "run" / "poster.jp2")
    frames = [Image.fromarray(frame) for frame in moving_pictures(3)]
    frames[0].save(tmp_path / "jump" / "moving.webp", save_all=True, append_images=frames[1:])
    for name, data in (
        *(("run/notes.txt", b"hello"), ("run/a.json", b"{}"), ("run/README", b"# Videos\n" * 50)),
        *(("run/a.npy", b"\x93NUMPY" + bytes(5000)), ("run/x.bin", np.random.default_rng(0).bytes(50_000))),
        *(("jump/a.srt", b"1\n00:00:01,000 --> 00:00:02,000\nhi\n\n" * 9), ("jump/none", b"")),
    ):
        (tmp_path / name).write_bytes(data)
    shutil.copy(written["mp4"], tmp_path / "run" / "a.mp4")
    shutil.copy(written["mp4"], tmp_path / "loose.mp4")
    videos = read_videos(str(tmp_path))
    assert [videos.name(i) for i in range(len(videos))] == ["jump/moving.webp", "run/a.mp4"]
    said = capsys.readouterr().err.replace("\n", " ")
    assert "17 (loose.mp4, jump/a.srt, jump/none, ...) left out" in said
    assert "no class is made of 1 (empty), which hold no videos" in said


def test_what_is_said_of_videos_needs_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`timesformer pack` works beside a process that holds the machine's accelerator."""
    for name in ("run/a.mp4", "jump/a.mp4", "jump/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"video")
    monkeypatch.setattr(jax, "process_index", None)
    assert len(read_videos(str(tmp_path))) == 2


def test_files_of_one_unknown_suffix_are_not_all_opened(
    tmp_path: Path, written: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    for number in range(40):
        shutil.copy(written["mp4"], tmp_path / "run" / f"{number}.vid")
        (tmp_path / "run" / f"{number}.feat").write_bytes(b"numbers")
    opened: list[str] = []
    probe = class_folders._opens_as_video
    monkeypatch.setattr(class_folders, "_opens_as_video", lambda path: opened.append(path) or probe(path))
    assert len(read_videos(str(tmp_path))) == 40
    assert len(opened) == 16
    # Where they differ, each is looked at.
    (tmp_path / "run" / "0.vid").write_bytes(b"none")
    assert len(read_videos(str(tmp_path))) == 39


def test_behind_a_url_nothing_is_opened(capsys: pytest.CaptureFixture[str]) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.m2ts", "b.unknown", "c"):
        memory.pipe(f"/folders/run/{name}", b"video")
    videos = read_videos("memory://folders")
    assert [videos.name(i) for i in range(len(videos))] == ["run/a.m2ts"]
    assert "2 (run/b.unknown, run/c) left out: unknown suffixes, which are only looked into" in capsys.readouterr().err


def test_a_folder_without_any_video_names_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "0001.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no videos in its 1 folders \(but 1 \(run/0001.jpg\)\)"):
        read_videos(str(tmp_path))
