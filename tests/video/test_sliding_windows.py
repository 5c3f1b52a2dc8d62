"""Windows over a long video: where they lie, that each is the clip read by itself, that nothing is decoded twice."""

import dataclasses
import tracemalloc
from pathlib import Path

import av
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_flax import FRAMES, tiny_flax
from videos import decode_everything, destroy_packets, moving_pictures, write_video

from timesformer_jax import VideoClassifier, VideoProcessor, probe, read_clip
from timesformer_jax.errors import VideoError
from timesformer_jax.video import decoding, streaming
from timesformer_jax.video.notices import DamagedVideoWarning
from timesformer_jax.video.sampling import SlidingWindows, clip_indices, spread_clips

RATE = 6.0
SPAN = 18  # RATE * FRAMES source frames at 30 a second


@pytest.fixture(scope="module")
def classify() -> VideoClassifier:
    model, params = tiny_flax("divided_space_time", dtype=jnp.float32, sampling_rate=RATE)
    processor = VideoProcessor(size=8, crop_size=(8, 16))
    return VideoClassifier.from_model(model, params, processor, batch_size=2)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "film.mp4", moving_pictures(100), gop=20)


@pytest.mark.parametrize("fps", [30.0, 24.0, 59.94, None])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("total", [1, 17, 18, 19, 100, 1000])
def test_windows_cover_the_video(total: int, overlap: float, fps: float | None) -> None:
    plan = SlidingWindows(FRAMES, RATE, overlap)
    starts, span = plan.starts(total, fps), plan.span(fps)
    assert starts[0] == 0
    assert np.all(np.diff(starts) > 0)
    assert np.all(np.diff(starts) <= span * (1 - overlap) + 1), "there is a gap"
    assert starts[-1] + span > total - 1, "the end is not covered"
    assert starts[-1] == 0 or starts[-1] + span <= total + 1e-6, "the last window reaches beyond the end"
    assert plan.indices(total, fps).shape == (len(starts), FRAMES)
    times = plan.seconds(np.arange(total + 1) / (fps or 30), fps)
    assert [begin for begin, _ in times] == pytest.approx(starts / (fps or 30))
    assert times[-1][1] == pytest.approx(min(starts[-1] + span, total) / (fps or 30))


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_impossible_overlaps(overlap: float) -> None:
    with pytest.raises(VideoError, match="overlap"):
        SlidingWindows(FRAMES, RATE, overlap)


def test_clips_are_spread_from_the_beginning_to_the_end() -> None:
    rows = spread_clips(100, 30, FRAMES, RATE, 3)
    assert rows[:, 0].tolist() == [0, 41, 82]
    assert rows[-1, -1] == 99
    np.testing.assert_array_equal(spread_clips(100, 30, FRAMES, RATE, 1)[0], [41, 49, 58])


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_window_is_the_clip_that_starts_there(classify: VideoClassifier, video: Path, overlap: float) -> None:
    answer = classify.windows(video, overlap=overlap)
    starts = SlidingWindows(FRAMES, RATE, overlap).starts(100, 30)
    assert len(answer.windows) == len(starts)
    for start, window in zip(starts.tolist(), answer.windows, strict=True):
        frames = read_clip(video, FRAMES, sampling_rate=RATE, start=start)
        # A batch of two and one of one may round differently: units in the last place of float32.
        np.testing.assert_allclose(window.logits, classify.forward(classify.prepare(frames)[None])[0], rtol=2e-5)
        assert (window.start, window.end) == pytest.approx((start / 30, (start + SPAN) / 30))
    mean = np.mean([window.logits for window in answer.windows], axis=0)
    assert [p.index for p in answer.predictions] == np.argsort(-mean)[:5].tolist()
    assert answer.predictions[0].logit == pytest.approx(float(mean.max()))


def test_every_frame_is_decoded_and_prepared_once(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[int] = []
    original = decoding.to_rgb
    monkeypatch.setattr(decoding, "to_rgb", lambda frame: converted.append(frame.pts) or original(frame))
    monkeypatch.setattr(streaming, "decode_chosen", lambda *_: pytest.fail("decoded in order"))
    plan = SlidingWindows(FRAMES, RATE, 0.9)
    clips = list(streaming.stream_clips(video, plan.indices, lambda frame: frame))
    assert len(clips) == len(plan.starts(100, 30)) > 40
    assert len(converted) == len(set(converted)) == len(np.unique(plan.indices(100, 30)))


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Four times as long a video, the same memory."""

    def peak(count: int) -> int:
        path = write_video(tmp_path / f"{count}.mp4", moving_pictures(count, 128, 160), gop=20)
        tracemalloc.start()
        for _ in streaming.stream_clips(path, SlidingWindows(FRAMES, RATE, 0.5).indices, np.copy):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    # A frame has 61 kB. Of the longer video the list of packets is longer, nothing else.
    assert peak(400) < peak(100) + 4 * 128 * 160 * 3


def test_progress_and_other_lengths(classify: VideoClassifier, video: Path) -> None:
    seen: list[tuple[int, int]] = []
    answer = classify.windows(video, seconds=1.0, top_k=2, progress=lambda done, total: seen.append((done, total)))
    assert [w.start for w in answer.windows] == pytest.approx([0, 1, 2, 70 / 30])
    assert [w.end for w in answer.windows] == pytest.approx([1, 2, 3, 100 / 30])
    assert seen == [(2, 4), (4, 4)]
    assert all(len(window.predictions) == 2 for window in answer.windows)


def test_arrays_and_unknown_lengths(video: Path) -> None:
    model, params = tiny_flax("space_only", dtype=jnp.float32)
    classify = VideoClassifier.from_model(model, params, VideoProcessor(size=8, crop_size=(8, 16)))
    with pytest.raises(VideoError, match="seconds"):
        classify.windows(video)
    pictures = decoding.read_file(video, lambda total, fps: np.arange(total))[0]
    array = np.stack([pictures[i] for i in range(100)])
    of_array, of_file = classify.windows(array, seconds=0.6), classify.windows(video, seconds=0.6)
    for a, b in zip(of_array.windows, of_file.windows, strict=True):
        np.testing.assert_array_equal(a.logits, b.logits)


def test_a_damaged_video_streams_what_can_be_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_pictures(100), codec="mjpeg", pix_fmt="yuvj420p")
    plan = SlidingWindows(FRAMES, RATE, 0.5)
    sound = list(streaming.stream_clips(path, plan.indices, lambda frame: frame))
    lost = plan.indices(100, 30)[4][1]
    destroy_packets(path, {int(lost)})
    with pytest.warns(DamagedVideoWarning, match="99 of 100"):
        clips = list(streaming.stream_clips(path, plan.indices, lambda frame: frame))
    for row, before, after in zip(plan.indices(100, 30), sound, clips, strict=True):
        for index, was, now in zip(row.tolist(), before, after, strict=True):
            if index != lost:
                np.testing.assert_array_equal(was, now)
    with pytest.warns(DamagedVideoWarning):
        expected = read_clip(path, FRAMES, sampling_rate=RATE, start=int(plan.starts(100, 30)[4]))
    np.testing.assert_array_equal(clips[4], expected)


def test_files_without_timestamps_stream_in_order(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.h264", moving_pictures(60), gop=10)
    plan = SlidingWindows(FRAMES, RATE, 0.5)
    clips = list(streaming.stream_clips(path, plan.indices, lambda frame: frame))
    for start, clip in zip(plan.starts(60, probe(path).fps).tolist(), clips, strict=True):
        np.testing.assert_array_equal(clip, read_clip(path, FRAMES, sampling_rate=RATE, start=start))


def test_a_video_that_may_not_be_read(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(streaming, "open_video", refuse)
    with pytest.raises(VideoError, match="permission denied"):
        next(streaming.stream_clips(video, SlidingWindows(FRAMES, RATE).indices, np.copy))


@pytest.mark.parametrize("file", ["a.mkv", "a.mp4", "a.ts"])
def test_windows_of_a_variable_frame_rate(classify: VideoClassifier, file: str, tmp_path: Path) -> None:
    """Ten frames a second first, thirty then: a window's seconds are those at which its frames are shown."""
    ticks = [3 * i for i in range(40)] + [120 + i for i in range(60)]
    path = write_video(tmp_path / file, moving_pictures(100), pts=ticks, gop=20)
    times = np.append(ticks, 180) / 30
    with av.open(str(path)) as container:
        shown = [
            frame.time - container.streams.video[0].start_time * container.streams.video[0].time_base
            for frame in container.decode(video=0)
        ]
    np.testing.assert_allclose(shown, times[:-1], atol=1e-3)
    fps = probe(path).fps
    assert fps == pytest.approx(99 / (179 / 30), rel=0.05)
    plan = SlidingWindows(FRAMES, RATE)
    answer = classify.windows(path)
    starts = plan.starts(100, fps)
    assert [window.start for window in answer.windows] == pytest.approx(times[starts].tolist(), abs=2e-3)
    ends = np.interp(np.minimum(starts + plan.span(fps), 100), np.arange(101), times)
    assert [window.end for window in answer.windows] == pytest.approx(ends.tolist(), abs=0.05)
    # Most of the time lies in the first 40 frames, and so do more of the seconds of their windows.
    first, last = answer.windows[0], answer.windows[-1]
    assert first.end - first.start > 2 * (last.end - last.start)


def test_windows_of_pictures_whose_size_changes(classify: VideoClassifier, tmp_path: Path) -> None:
    """Each frame is processed in its own shape, in windows as well as in a single clip."""
    parts = [write_video(tmp_path / f"{height}.ts", moving_pictures(40, height, 96), gop=20) for height in (64, 48)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = [frame for part in parts for frame in decode_everything(part)]
    answer = classify.windows(path)
    fps = probe(path).fps
    rows = SlidingWindows(FRAMES, RATE).indices(80, fps)
    assert len(answer.windows) == len(rows)
    for row, window in zip(rows, answer.windows, strict=True):
        clip = np.concatenate([classify.prepare(frames[i][None]) for i in row])
        np.testing.assert_allclose(window.logits, classify.forward(clip[None])[0], rtol=2e-5)
    clip = np.concatenate([classify.prepare(frames[i][None]) for i in clip_indices(80, fps, FRAMES, RATE)])
    np.testing.assert_allclose(classify.logits(path)[0], classify.forward(clip[None])[0], rtol=2e-5)
    uncut = dataclasses.replace(classify.processor, do_center_crop=False)
    with pytest.raises(VideoError, match="changes its size in mid-stream"):
        list(streaming.stream_clips(path, lambda *_: rows, lambda frame: uncut.resize_and_crop([frame])[0]))
