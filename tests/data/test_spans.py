"""Parts of videos: clips lie within them, as if each were a video; names tell them apart; the rest is not decoded."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from videos import decode_everything, moving_pictures, write_video

from timesformer_jax.cli import main
from timesformer_jax.data.batches import EvaluationBatches, TrainingBatches
from timesformer_jax.data.clips import frame_indices, read_clips
from timesformer_jax.data.config import Augmentation, ClipShape, DataConfig, Views
from timesformer_jax.data.files import VideoFiles, video_files
from timesformer_jax.data.lists.entry import Entry
from timesformer_jax.data.packing import pack
from timesformer_jax.data.shards import PackedVideos
from timesformer_jax.data.sources import read_videos
from timesformer_jax.data.spans import Spans, fragment, frames_between
from timesformer_jax.data.videos import Span, Videos
from timesformer_jax.errors import DataError, VideoError
from timesformer_jax.evaluation.metrics import VideoResult
from timesformer_jax.evaluation.recorder import Recorder
from timesformer_jax.video import decoding

CLIP = ClipShape(3, 16, 16, 4)
LENGTH, FPS = 120, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of four seconds in several containers, one whose frames come faster and faster, and pictures."""
    folder = tmp_path_factory.mktemp("videos")
    frames = moving_pictures(LENGTH, 32, 48)
    for suffix in ("mp4", "mkv", "ts", "avi"):
        codec = "mpeg4" if suffix == "avi" else "libx264"
        write_video(folder / f"long.{suffix}", frames, codec=codec, fps=FPS)
    write_video(folder / "long.h264", frames, fps=25)
    # Half of the frames in the first three of four seconds, then three times as many a second.
    stamps = [*range(0, 90, 2), *range(90, 120)]
    write_video(folder / "variable.mp4", frames[: len(stamps)], fps=FPS, pts=stamps)
    (folder / "pictures").mkdir()
    for number, frame in enumerate(frames[:60]):
        Image.fromarray(frame).save(folder / "pictures" / f"{number}.png")
    return folder


def entries(*rows: tuple[str, Span | None, str]) -> list[Entry]:
    return [Entry(path, label, f"line {number}", span) for number, (path, span, label) in enumerate(rows, 1)]


def videos_of(folder: Path, *rows: tuple[str, Span | None, str]) -> VideoFiles:
    return video_files(entries(*rows), str(folder), None, "list.csv")


ROWS = (
    ("long.mp4", Span(0.5, 1.5), "run"),
    ("long.mp4", Span(2, 4), "jump"),
    ("long.mkv", Span(30, 75, "frames"), "run"),
    ("long.mp4", None, "jump"),
    ("pictures", Span(0.5, None), "run"),
    ("long.mp4", Span(0.5, 1.5), "run"),  # once more: somebody balances classes so
)


@pytest.mark.parametrize(
    ("span", "frames"),
    [
        (Span(0, 1), (0, 30)),
        (Span(1, 2), (30, 60)),
        (Span(0.51, 0.52), (15, 16)),  # between two frames: the one that is seen
        (Span(3.5), (105, 120)),
        (Span(3.5, 100), (105, 120)),
        (Span(3.99, 5), (119, 120)),
        (Span(1 / 3, 2 / 3), (10, 20)),
        (Span(10, 20, "frames"), (10, 20)),
        (Span(119, None, "frames"), (119, 120)),
        (Span(100, 500, "frames"), (100, 120)),
    ],
)
def test_frames_of_a_span(span: Span, frames: tuple[int, int]) -> None:
    assert frames_between(span, LENGTH, 30.0) == frames
    assert frames_between(span, LENGTH, 30.0, np.arange(LENGTH) / 30) == frames
    assert frames_between(span, LENGTH, None) == frames  # pictures
    assert frames_between(span, LENGTH, 30.0, np.round(np.arange(LENGTH) / 30, 3)) == frames  # as in Matroska


@pytest.mark.parametrize(
    ("span", "what"), [(Span(4.1, 5), "4.1 s .* 4 s"), (Span(120, 130, "frames"), "frame 120 .* 120")]
)
def test_a_span_beyond_the_end(folder: Path, span: Span, what: str) -> None:
    with pytest.raises(VideoError, match=f"begins at {what}"):
        read_clips(folder / "long.mp4", CLIP, np.zeros(3), span)


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.ts", "long.avi", "pictures", "long.h264"])
@pytest.mark.parametrize("rule", [4, "segments"])
def test_clips_are_those_of_the_part_by_itself(folder: Path, name: str, rule: Any) -> None:
    """As if the frames of the span were a video of their own."""
    clip = ClipShape(3, 16, 16, rule)
    if name == "pictures":
        whole, fps = np.stack([np.asarray(Image.open(folder / name / f"{i}.png")) for i in range(60)]), None
    else:
        whole, fps = decode_everything(folder / name), 25.0 if name.endswith("h264") else 30.0
    positions = np.random.default_rng(0).random((4, 3))
    for span in (Span(0.4, 1.6), Span(1.0), Span(7, 31, "frames"), Span(50, 52, "frames")):
        first, end = frames_between(span, len(whole), fps)
        wanted = whole[first:end][frame_indices(end - first, fps, clip, positions)]
        np.testing.assert_array_equal(read_clips(folder / name, clip, positions, span), wanted)


def test_seconds_are_those_of_the_frames_themselves(folder: Path) -> None:
    """In a variable frame rate neither index / rate nor the length tells when a frame is shown."""
    whole = decode_everything(folder / "variable.mp4")
    for span, first, end in ((Span(1, 2), 15, 30), (Span(3, 3.5), 45, 60), (Span(3.5), 60, 75), (Span(0, 3), 0, 45)):
        clip = ClipShape(end - first, 16, 16, "segments")
        found = read_clips(folder / "variable.mp4", clip, np.zeros(end - first), span)
        wanted = whole[first + frame_indices(end - first, None, clip, np.zeros(end - first))]
        np.testing.assert_array_equal(found, wanted)


def test_only_what_the_span_needs_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    convert = decoding.to_rgb
    monkeypatch.setattr(decoding, "to_rgb", lambda frame: counted.append(frame.pts) or convert(frame))
    stretches: list[tuple[int, int]] = []
    decode = decoding._decode_stretch
    monkeypatch.setattr(decoding, "_decode_stretch", lambda *given: stretches.append(given[3:5]) or decode(*given))
    read_clips(folder / "long.mp4", CLIP, np.full(3, 0.5), Span(2.5, 3))
    assert len(counted) == 3
    assert all(start >= 60 and stop < 95 for start, stop in stretches)  # keyframes stand at every twelfth


def test_names_and_fingerprints_tell_spans_apart(folder: Path) -> None:
    videos = videos_of(folder, *ROWS)
    assert [videos.name(i) for i in range(len(videos))] == [
        *("long.mp4#t=0.5,1.5", "long.mp4#t=2,4", "long.mkv#frames=30,75", "long.mp4", "pictures#t=0.5"),
        "long.mp4#t=0.5,1.5",
    ]
    assert videos.open(1) == str(folder / "long.mp4")
    assert [videos.span(i) for i in range(len(videos))] == [row[1] for row in ROWS]
    whole = videos_of(folder, *((path, None, label) for path, _, label in ROWS if path != "long.mp4"))
    assert whole.spans is None
    moved = videos_of(folder, *((path, span and Span(span.start + 0.1, span.end), label) for path, span, label in ROWS))
    assert len({videos.fingerprint, moved.fingerprint}) == 2
    assert [fragment(Span(*values)) for values in ((0, 1234567.125), (3,), (5, 9, "frames"))] == [
        *("t=0,1234567.125", "t=3", "frames=5,9")
    ]
    assert Spans.of([None, None]) is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("long.mp4", Span(1, 2), "a"), ("long.mp4", Span(1, 2), "b")],
            "long.mp4#t=1,2 with two labels, 'a' (line 1) and",
        ),
        ([("long.mp4", None, "a"), ("long.mp4", None, "a"), ("long.mp4", None, "b")], "'a' (line 1) and 'b' (line 3)"),
        ([("long.mp4", Span(3, 3), "a")], "line 1: the part from 3 to 3 seconds is none"),
        ([("long.mp4", None, "a"), ("long.mp4", Span(3, 2), "a")], "line 2: the part from 3 to 2 seconds"),
        ([("long.mp4", Span(-1, 2, "frames"), "a")], "line 1: the part from -1 to 2 frames"),
        ([("long.mp4", Span(float("nan"), 2), "a")], "line 1: the part from nan to 2"),
    ],
)
def test_spans_and_labels_that_can_not_be(folder: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        videos_of(folder, *rows)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overlapping_parts_have_labels_of_their_own(folder: Path) -> None:
    videos = videos_of(folder, ("long.mp4", Span(0, 2), "a"), ("long.mp4", Span(1, 3), "b"), ("long.mp4", None, "c"))
    assert videos.labels.tolist() == [0, 1, 2]


def batches_of(
    videos: Videos, bad_list: Path, workers: int = 0, max_bad_fraction: float = 0.05
) -> list[dict[str, np.ndarray]]:
    config = DataConfig(
        workers=workers, max_bad_fraction=max_bad_fraction, augmentation=Augmentation(short_side=(16, 16), flip=0)
    )
    stream = TrainingBatches(videos, config, clip=CLIP, batch_size=6, seed=3, bad_list=bad_list)
    taken = [next(stream) for _ in range(3)]
    stream.close()
    return taken


def test_training_takes_clips_of_the_spans(folder: Path, tmp_path: Path) -> None:
    """The bar at the top tells the frame: all of a clip's lie in its span."""
    videos = videos_of(folder, *ROWS)
    seen: dict[int, set[int]] = {}
    for batch in batches_of(videos, tmp_path / "bad.txt"):
        assert sorted(batch["ids"].tolist()) == list(range(len(ROWS)))  # an entry that stands twice comes twice
        for index, frames in zip(batch["ids"].tolist(), batch["frames"], strict=True):
            bars = frames[:, 0].mean(axis=(1, 2))
            tones = np.arange(LENGTH) * 37 % 256
            span = ROWS[index][1]
            first, end = (0, LENGTH) if span is None else frames_between(span, 60 if index == 4 else LENGTH, 30)
            assert np.abs(bars[:, None] - tones[None, first:end]).min(axis=1).max() < 5
            seen.setdefault(index, set()).add(frames.tobytes())
    assert all(len(clips) == 3 for clips in seen.values())


def test_a_bad_video_that_stands_several_times_counts_once(folder: Path, tmp_path: Path) -> None:
    (folder / "bad.mp4").write_text("404")
    rows = [("bad.mp4", None, "run")] * 20 + [("long.mp4", Span(0, i + 1), "run") for i in range(4)]
    assert len(batches_of(videos_of(folder, *rows), tmp_path / "bad.txt", max_bad_fraction=0.2)) == 3
    assert (tmp_path / "bad.txt").read_text().count("\n") == 1
    rows += [("bad.mp4", Span(i, i + 1), "run") for i in range(4)]
    with pytest.raises(DataError, match=r"4 of .*9.* videos can't be decoded"):
        batches_of(videos_of(folder, *rows), tmp_path / "bad.txt", max_bad_fraction=0.3)


def views_of(videos: Videos, bad_list: Path | None = None) -> dict[str, np.ndarray]:
    stream = EvaluationBatches(
        *(videos, DataConfig(workers=0)),
        **{"clip": CLIP, "batch_size": len(videos), "views": Views(clips=2, crops=1), "bad_list": bad_list},
    )
    (batch,) = stream
    return batch


def test_evaluation_of_parts_counts_each(folder: Path, tmp_path: Path) -> None:
    rows = [*ROWS, ("long.mp4", Span(60, 70), "run"), ("missing.mp4", Span(0, 1), "run")]
    videos = videos_of(folder, *rows)
    batch = views_of(videos, tmp_path / "bad.txt")
    assert batch["valid"].tolist() == [True] * 6 + [False] * 2
    assert batch["labels"].tolist() == [1, 0, 1, 0, 1, 1, 1, 1]
    reasons = dict(line.split("\t") for line in (tmp_path / "bad.txt").read_text().splitlines())
    assert reasons.keys() == {"long.mp4#t=60,70", "missing.mp4#t=0,1"}
    assert reasons["long.mp4#t=60,70"].startswith("The part that begins at 60 s lies beyond the end")
    np.testing.assert_array_equal(batch["frames"][0], batch["frames"][5])
    assert (batch["frames"][0] != batch["frames"][1]).any()
    recorder = Recorder(tmp_path, {}, videos.name)
    recorder.resume(8)
    recorder.add([VideoResult(i, 0, (0,), (1.0,)) for i in range(8)])
    recorder.close()
    named = [json.loads(line)["video"] for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert named == [videos.name(i) for i in range(8)]


def test_packing_keeps_each_video_once_and_gives_the_same_clips(folder: Path, tmp_path: Path) -> None:
    rows = [*ROWS, ("long.mp4", Span(60, 70), "run"), ("missing.mp4", Span(0, 1), "run"), ("missing.mp4", None, "run")]
    files = videos_of(folder, *rows)
    counted: list[int] = []
    packing = pack(files, tmp_path / "out", shards=2, progress=counted.append)
    assert (packing.videos, sum(counted)) == (6, 9)
    assert packing.left_out == ("long.mp4#t=60,70", "missing.mp4#t=0,1", "missing.mp4")
    shards = read_videos(str(tmp_path / "out"))
    kept = videos_of(folder, *ROWS)
    assert isinstance(shards, PackedVideos)
    assert sum(count for _, count in shards.shards) == 3  # one of each file
    assert (shards.fingerprint, shards.classes) == (kept.fingerprint, kept.classes)
    assert [shards.name(i) for i in range(6)] == [kept.name(i) for i in range(6)]
    for one, other in zip(
        batches_of(kept, tmp_path / "bad.txt"), batches_of(shards, tmp_path / "bad.txt"), strict=True
    ):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(views_of(kept)["frames"], views_of(shards)["frames"])
    pack(shards, tmp_path / "again", shards=2)
    assert [file.name for file in sorted((tmp_path / "again").iterdir())] == [
        file.name for file in sorted((tmp_path / "out").iterdir())
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["version"], manifest["videos"]) == (2, 6)
    for change in ({"records": [0] * 6}, {"records": [0, 1, 2]}, {"spans": [[1]] * 6}, {"records": [0, 1, 2, 3, 4, 5]}):
        (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(DataError, match="is damaged"):
            read_videos(str(tmp_path / "out"))


@pytest.mark.slow
def test_worker_processes_give_the_same(folder: Path, tmp_path: Path) -> None:
    videos = videos_of(folder, *ROWS)
    pack(videos, tmp_path / "out", shards=2)
    one = batches_of(videos, tmp_path / "bad.txt")
    other = batches_of(read_videos(str(tmp_path / "out")), tmp_path / "bad.txt", workers=1)
    for a, b in zip(one, other, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_list_that_names_videos_several_times(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        shutil.copy(folder / "long.mp4", tmp_path / f"{number}.mp4")
    (tmp_path / "list.csv").write_text("0.mp4,run\n1.mp4,jump\n0.mp4,run\n0.mp4,run\n2.mp4,jump\n1.mp4,jump\n")
    files = read_videos(str(tmp_path / "list.csv"))
    assert (len(files), files.labels.tolist()) == (6, [1, 0, 1, 1, 0, 0])
    assert files.files == 3
    assert main(["pack", str(tmp_path / "list.csv"), str(tmp_path / "out")]) == 0
    assert "6 videos in 1 shards" in capsys.readouterr().err
    shards = read_videos(str(tmp_path / "out"))
    assert shards.fingerprint == files.fingerprint
    np.testing.assert_array_equal(views_of(shards)["frames"], views_of(files)["frames"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [shard["videos"] for shard in manifest["shards"]] == [3]
