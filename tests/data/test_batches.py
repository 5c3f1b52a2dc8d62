"""Batches: the same whatever the numbers of workers and processes, wherever they begin; bad videos are named."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from videos import moving_pictures, write_video

from timesformer_jax.data.bad_videos import BadVideos, require_few
from timesformer_jax.data.batches import EvaluationBatches, TrainingBatches
from timesformer_jax.data.clips import read_clips
from timesformer_jax.data.config import Augmentation, ClipShape, DataConfig, Views
from timesformer_jax.data.sources import read_videos
from timesformer_jax.errors import DataError, TrainingError

CLIP = ClipShape(3, 16, 20, 4)
GOOD, BAD = 11, 3
BAD_NAMES = {"cut.mp4", "empty.mp4", "text.mp4"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven videos of three classes, and three files that are none."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(GOOD):
        write_video(folder / f"{number}.mp4", moving_pictures(20 + number, 32, 48, seed=number))
    write_bad_videos(folder)
    names = [f"{number}.mp4" for number in range(GOOD)] + sorted(BAD_NAMES)
    (folder / "good.txt").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names[:GOOD])))
    (folder / "all.txt").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
    return folder


def write_bad_videos(folder: Path) -> None:
    data = (folder / "0.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])  # the table of frames is at the end
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("404 not found")


def open_batches(folder: Path, bad_list: Path, videos: str = "good.txt", **options: Any) -> TrainingBatches:
    fields = {"workers": 0, "max_bad_fraction": 0.5, "augmentation": Augmentation(rand_augment_layers=1, erasing=0.3)}
    fields |= {name: options.pop(name) for name in (*fields, "prefetch") if name in options}
    arguments = {"clip": CLIP, "batch_size": 4, "seed": 5} | options
    listed = read_videos(videos if "://" in videos else str(folder / videos))
    return TrainingBatches(listed, DataConfig(**fields), bad_list=bad_list, **arguments)


def take(batches: TrainingBatches, count: int) -> list[dict[str, np.ndarray]]:
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def assert_same(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name in ("ids", "labels", "frames"):
            np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture(scope="module")
def reference(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """Eight batches of the list with bad videos, made in threads."""
    return take(open_batches(folder, tmp_path_factory.mktemp("reference") / "bad.txt", "all.txt"), 8)


def test_a_batch_is_what_it_says(folder: Path, tmp_path: Path) -> None:
    batches = open_batches(folder, tmp_path / "bad.txt", augmentation=Augmentation(short_side=(16, 16), flip=0))
    batch = take(batches, 1)[0]
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        "frames": ((4, 3, 16, 20, 3), np.uint8),
        "labels": ((4,), np.int32),
        "ids": ((4,), np.int64),
    }
    np.testing.assert_array_equal(batch["labels"], batch["ids"] % 3)
    assert (batches.samples_per_epoch, batches.steps_per_epoch, batches.bad_videos) == (11, 11 / 4, 0)
    assert not (tmp_path / "bad.txt").exists()
    for frames, index in zip(batch["frames"], batch["ids"], strict=True):
        # The bar at the top tells each frame: those of the clip are somewhere in the video at the rate asked for.
        bar = frames[:, 0].mean(axis=(1, 2))
        told = [
            np.abs(bar - read_clips(folder / f"{index}.mp4", CLIP, np.full(3, at))[:, 0].mean(axis=(1, 2))).max()
            for at in np.linspace(0, 1, 50)
        ]
        assert min(told) < 6


def test_every_pass_has_every_video_once_in_another_order(folder: Path, tmp_path: Path) -> None:
    ids = np.concatenate([batch["ids"] for batch in take(open_batches(folder, tmp_path / "bad.txt"), 11)])
    passes = ids.reshape(4, 11)
    assert all(sorted(row) == list(range(11)) for row in passes.tolist())
    assert len({tuple(row) for row in passes.tolist()}) == 4
    other_seed = np.concatenate([b["ids"] for b in take(open_batches(folder, tmp_path / "bad.txt", seed=6), 11)])
    assert not any(tuple(row) in {tuple(row) for row in passes.tolist()} for row in other_seed.reshape(4, 11).tolist())


def test_a_video_is_augmented_anew_each_time(folder: Path, tmp_path: Path) -> None:
    batches = take(open_batches(folder, tmp_path / "bad.txt"), 11)
    frames = {i: [] for i in range(11)}
    for batch in batches:
        for index, clip in zip(batch["ids"].tolist(), batch["frames"], strict=True):
            frames[index].append(clip.tobytes())
    assert all(len(set(clips)) == 4 for clips in frames.values())


def test_repeats_stand_side_by_side_with_other_augmentation(folder: Path, tmp_path: Path) -> None:
    batches = open_batches(folder, tmp_path / "bad.txt", "all.txt", augmentation=Augmentation(repeats=2), batch_size=6)
    assert batches.samples_per_epoch == 28
    for batch in take(batches, 5):
        np.testing.assert_array_equal(batch["ids"][::2], batch["ids"][1::2])
        assert all((a != b).any() for a, b in zip(batch["frames"][::2], batch["frames"][1::2], strict=True))


def test_bad_videos_are_replaced_counted_and_listed_once(
    folder: Path, reference: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    batches = open_batches(folder, tmp_path / "bad.txt", "all.txt", workers=2, prefetch=2)
    assert_same(take(batches, 8), reference)
    assert batches.bad_videos == BAD
    lines = (tmp_path / "bad.txt").read_text().splitlines()
    assert Counter(line.split("\t")[0] for line in lines) == dict.fromkeys(BAD_NAMES, 1)
    assert "text.mp4 can't be opened as a video" in next(line for line in lines if line.startswith("text"))
    assert all(index < GOOD for batch in reference for index in batch["ids"])


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_same_batches(
    folder: Path, reference: list[dict[str, np.ndarray]], tmp_path: Path, process_count: int
) -> None:
    parts = [
        take(
            open_batches(folder, tmp_path / "bad.txt", "all.txt", share=(index, process_count)),
            5,
        )
        for index in range(process_count)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts, strict=True)
    ]
    assert_same(joined, reference[:5])
    names = set().union(*(BadVideos(path).names() for path in tmp_path.glob("bad.*.txt")))
    assert names == BAD_NAMES
    assert not (tmp_path / "bad.txt").exists()


@pytest.mark.parametrize("start", [1, 3, 7])
def test_it_goes_on_from_any_step(
    folder: Path, reference: list[dict[str, np.ndarray]], tmp_path: Path, start: int
) -> None:
    batches = open_batches(folder, tmp_path / "a.txt", "all.txt")
    batches.set_state(batches.get_state() | {"step": start})
    assert_same(take(batches, 8 - start), reference[start:])


def test_videos_behind_a_url_give_the_same_batches(
    folder: Path, reference: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    batches = open_batches(folder, tmp_path / "bad.txt", f"file://{folder}/all.txt")
    assert_same(take(batches, 4), reference[:4])
    assert BadVideos(tmp_path / "bad.txt").names() <= BAD_NAMES


def test_a_state_restores_the_position(folder: Path, reference: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    batches = open_batches(folder, tmp_path / "bad.txt", "all.txt")
    assert_same([next(batches) for _ in range(3)], reference[:3])
    state = json.loads(json.dumps(batches.get_state()))
    assert state["step"] == 3
    next(batches)
    batches.set_state(state)
    assert_same([next(batches)], reference[3:4])
    batches.close()
    # Other numbers of processes and workers make no difference.
    other = open_batches(folder, tmp_path / "bad.txt", "all.txt", share=(1, 2))
    other.set_state(state)
    np.testing.assert_array_equal(take(other, 1)[0]["ids"], reference[3]["ids"][2:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 6}, "seed was 5 and is 6"),
        ({"batch_size": 2}, "batch_size was 4 and is 2"),
        ({"videos": "good.txt"}, "videos was 14 and is 11, fingerprint was"),
        ({"augmentation": Augmentation(repeats=2)}, "repeats was 1 and is 2"),
    ],
)
def test_a_state_of_other_data_is_refused(folder: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    state = open_batches(folder, tmp_path / "bad.txt", "all.txt").get_state()
    with pytest.raises(DataError, match=message):
        open_batches(folder, tmp_path / "bad.txt", **({"videos": "all.txt"} | options)).set_state(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 3, "share": (0, 2)}, "can't be shared out equally to 2"),
        ({"share": (2, 2)}, "There is no process 2 among 2"),
        ({"augmentation": Augmentation(repeats=3)}, "repeats is 3, which does not divide the batch of 4"),
        ({"augmentation": Augmentation(short_side=(12, 30))}, "short_side begins at 12, below the crop of 16x20"),
        ({"seed": -1}, "Seed -1"),
    ],
)
def test_settings_that_make_no_batches(folder: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_batches(folder, tmp_path / "bad.txt", **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_videos_stop_it(folder: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(folder, tmp_path / "videos")
    write_bad = [(tmp_path / "videos" / f"{number}.mp4").write_text("gone") for number in range(5)]
    assert len(write_bad) == 5  # so that 8 of 14 are bad
    batches = open_batches(tmp_path / "videos", tmp_path / "bad.txt", "all.txt", workers=workers, max_bad_fraction=0.3)
    with pytest.raises(DataError, match=r"[5-8] of \d+ videos can't be decoded, more than the 30.0% of") as caught:
        take(batches, 20)
    assert "bad.txt" in str(caught.value)


def test_a_data_set_without_a_single_good_video(folder: Path, tmp_path: Path) -> None:
    write_bad_videos_only = tmp_path / "list.txt"
    write_bad_videos_only.write_text("".join(f"{folder / name} 0\n" for name in BAD_NAMES))
    batches = open_batches(tmp_path, tmp_path / "bad.txt", "list.txt", max_bad_fraction=1.0)
    with pytest.raises(DataError, match="none could be decoded"):
        take(batches, 1)


def test_the_limit_of_bad_videos() -> None:
    def stops(bad: int, seen: int, total: int, fraction: float) -> bool:
        try:
            require_few(bad, seen, total, fraction, Path("bad.txt"))
        except DataError:
            return True
        return False

    assert not stops(50, 1000, 1000, 0.05)
    assert stops(51, 1000, 1000, 0.05)
    assert stops(51, 100, 1000, 0.05)  # however few were tried: it is known already
    assert not stops(3, 10, 10, 0.05)  # a small set is let have some
    assert stops(4, 10, 10, 0.05)
    assert stops(1, 10, 1000, 0.0)
    assert not stops(1000, 1000, 1000, 1.0)
    # Half of a large set is bad: that shows after some dozens, not after the twelve thousandth.
    assert stops(30, 60, 240_000, 0.05)
    rng = np.random.default_rng(0)
    for _ in range(200):  # what is allowed never stops a run early
        bad = np.cumsum(rng.permutation(np.arange(2000) < 100))
        assert not any(stops(int(bad[seen]), seen + 1, 2000, 0.05) for seen in range(2000))


def test_hosts_that_share_a_folder_count_together(tmp_path: Path) -> None:
    (tmp_path / "bad_old.txt").write_text("x.mp4\tno list of these\n")
    assert BadVideos(tmp_path / "bad.0.txt").add("a.mp4", "text") == 1
    assert BadVideos(tmp_path / "bad.1.txt").add("a.mp4", "text") == 1
    assert BadVideos(tmp_path / "bad.1.txt").add("tab\there.mp4", "two\nlines") == 2
    assert BadVideos(tmp_path / "bad.1.txt").add("tab\there.mp4", "again") == 2
    assert (tmp_path / "bad.1.txt").read_text() == "a.mp4\ttext\ntab here.mp4\ttwo lines\n"


def read_evaluation(folder: Path, workers: int = 0, **options: Any) -> EvaluationBatches:
    arguments = {"clip": CLIP, "batch_size": 4, "views": Views()} | options
    return EvaluationBatches(read_videos(str(folder / "all.txt")), DataConfig(workers=workers), **arguments)


def test_evaluation_has_every_video_once_and_in_order(folder: Path, tmp_path: Path) -> None:
    batches = list(read_evaluation(folder, bad_list=tmp_path / "bad.txt"))
    assert [batch["frames"].shape for batch in batches] == [(4, 3, 3, 16, 20, 3)] * 4
    ids, labels, valid = (np.concatenate([batch[name] for batch in batches]) for name in ("ids", "labels", "valid"))
    assert ids.tolist() == [*range(14), -1, -1]
    assert labels.tolist() == [i % 3 for i in range(14)] + [-1, -1]
    assert valid.tolist() == [True] * GOOD + [False] * 5
    assert BadVideos(tmp_path / "bad.txt").names() == BAD_NAMES
    frames = np.concatenate([batch["frames"] for batch in batches])
    assert not frames[~valid].any()
    assert all(view.any() for view in frames[valid].reshape(-1, *frames.shape[2:]))


def test_evaluation_in_parts(folder: Path) -> None:
    whole = list(read_evaluation(folder))
    parts = [list(read_evaluation(folder, share=(i, 4))) for i in range(4)]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)
    for start in (2, 9):
        rest = read_evaluation(folder, workers=1)
        rest.number = start
        assert_same(list(rest), whole[start:])
        assert len(rest) == 4


def test_clips_and_crops_of_evaluation(folder: Path) -> None:
    """Views go clip by clip; one clip is the first or the middle one, several lie evenly."""

    def views(**options: Any) -> np.ndarray:
        batch = next(read_evaluation(folder, clip=ClipShape(3, 16, 16, 4), views=Views(**options)))
        return batch["frames"][2]

    first, middle = views(clips=1, crops=1), views(clips=1, crops=1, position="middle")
    assert (first != middle).any()
    both = views(clips=2, crops=3)
    assert both.shape == (6, 3, 16, 16, 3)
    np.testing.assert_array_equal(both[1], first[0])
    np.testing.assert_array_equal(views(clips=1, crops=3)[1], first[0])
    quarters = views(clips=4, crops=1)
    np.testing.assert_array_equal(views(clips=2, crops=3, position="middle")[[1, 4]], quarters[[1, 3]])


@pytest.mark.slow
def test_a_hundred_damaged_files_among_a_thousand(folder: Path, tmp_path: Path) -> None:
    """The run goes on, and the list names exactly those."""
    rng = np.random.default_rng(0)
    damaged = set(rng.choice(1000, 100, replace=False).tolist())
    sound = [(folder / f"{number}.mp4").read_bytes() for number in range(GOOD)]
    for number in range(1000):
        data = sound[number % GOOD]
        if number in damaged:
            kind = number % 4
            cut = data[: int(rng.integers(1, len(data) // 2))]
            data = [cut, b"", b"<html>404</html>", rng.bytes(3000)][kind]
        (tmp_path / f"{number}.mp4").write_bytes(data)
    (tmp_path / "list.txt").write_text("".join(f"{number}.mp4 0\n" for number in range(1000)))
    bad_list = tmp_path / "bad.txt"
    batches = open_batches(tmp_path, bad_list, "list.txt", workers=2, max_bad_fraction=0.2, batch_size=20)
    seen = take(batches, 50)
    lines = bad_list.read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in lines) == sorted(f"{number}.mp4" for number in damaged)
    assert batches.bad_videos == 100
    ids = {index for batch in seen for index in batch["ids"].tolist()}
    assert ids == set(range(1000)) - damaged
    strict = open_batches(tmp_path, tmp_path / "bad2.txt", "list.txt", workers=0, batch_size=20, max_bad_fraction=0.05)
    with pytest.raises(DataError, match=r"can't be decoded, more than the 5\.0%"):
        take(strict, 50)


def test_a_script_without_a_guard_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker process while it imports the script that started it."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(DataError, match="if __name__ == "):
        take(open_batches(folder, tmp_path / "bad.txt"), 1)


@pytest.mark.slow
def test_a_worker_that_is_killed(folder: Path, tmp_path: Path) -> None:
    batches = open_batches(folder, tmp_path / "bad.txt", workers=1, prefetch=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(TrainingError, match="has ended unexpectedly"):
        take(batches, 20)


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, time
        from timesformer_jax.data.batches import TrainingBatches
        from timesformer_jax.data.config import ClipShape, DataConfig
        from timesformer_jax.data.sources import read_videos
        if __name__ == "__main__":
            videos, clip = read_videos({str(folder / "good.txt")!r}), ClipShape(3, 16, 20, 4)
            options = dict(clip=clip, batch_size=4, seed=0, bad_list="bad.txt")
            batches = TrainingBatches(videos, DataConfig(workers=2), **options)
            next(batches)
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            time.sleep(600)
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    workers = [int(word) for word in process.stdout.readline().split()]
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"  # a container may have nobody who clears dead processes away
