"""Video files: any frames read by seeking equal those of decoding everything in order, and damage is survived."""

import itertools
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from videos import copy_packets, decode_everything, destroy_packets, ffmpeg, moving_pictures, rotate, write_video

from timesformer_jax.errors import VideoError
from timesformer_jax.video import decoding, opening, packets
from timesformer_jax.video.notices import ChangingSizeWarning, DamagedVideoWarning, VideoWarning
from timesformer_jax.video.reading import probe, read_by_rule, read_clip, read_frames
from timesformer_jax.video.sampling import clip_indices

FRAMES = moving_pictures(50)
OPEN_GOP = {"x264-params": "open-gop=1:bframes=4:b-pyramid=normal:scenecut=0"}
IRREGULAR = (np.cumsum(np.random.default_rng(1).integers(1, 9, len(FRAMES))) + 100).tolist()

# What is written, and whether it can be read by seeking.
SEEKABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("a.mp4", {}),
    "h264 in Matroska, without a frame count": ("a.mkv", {}),
    "h264 in MPEG-TS, which begins after time 0": ("a.ts", {}),
    "h264 of one group": ("a.mp4", {"gop": 250}),
    "h264 of keyframes": ("a.mp4", {"gop": 1}),
    "h264 of groups of two": ("a.mkv", {"gop": 2}),
    "h264 without reordering": ("a.mp4", {"options": {"bf": "0"}}),
    "h264 without reordering in AVI": ("a.avi", {"options": {"bf": "0"}}),
    "h264, open groups": ("a.mp4", {"options": OPEN_GOP, "gop": 10}),
    "h264, open groups in Matroska": ("a.mkv", {"options": OPEN_GOP, "gop": 10}),
    "h264, open groups in MPEG-TS": ("a.ts", {"options": OPEN_GOP, "gop": 10}),
    "h264, variable frame rate": ("a.mp4", {"pts": IRREGULAR}),
    "h264, variable frame rate in Matroska": ("a.mkv", {"pts": IRREGULAR}),
    "h264 with sound that goes on": ("a.mkv", {"sound": 3}),
    "hevc, open groups": (
        "a.mp4",
        {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1:keyint=10:min-keyint=10"}},
    ),
    "mpeg4": ("a.avi", {"codec": "mpeg4"}),
    "mpeg4, reordered": ("a.mkv", {"codec": "mpeg4", "options": {"bf": "2"}}),
    "mpeg4, reordered in AVI": ("a.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
    "mpeg2": ("a.ts", {"codec": "mpeg2video", "options": {"bf": "2"}}),
    "vp8": ("a.webm", {"codec": "libvpx"}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9"}),
    "av1": ("a.mp4", {"codec": "libsvtav1"}),
    "mjpeg": ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "gif": ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
}
IN_ORDER: dict[str, tuple[str, dict[str, Any]]] = {
    "h264 in AVI, with made-up timestamps": ("a.avi", {}),
    "raw h264, without timestamps": ("a.h264", {}),
    "h264 refreshed bit by bit": ("a.mp4", {"options": {"x264-params": "intra-refresh=1:keyint=20"}}),
}


def write(path: Path, frames: np.ndarray = FRAMES, **settings: Any) -> Path:
    codec = settings.get("codec", "libx264")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    return write_video(path, frames, **settings)


def some_indices(count: int) -> list[list[int]]:
    """Every single frame, and some combinations."""
    rng = np.random.default_rng(0)
    several = [np.sort(rng.choice(count, size, replace=False)).tolist() for size in (2, 3, 5, 8)]
    return [[i] for i in range(count)] + several + [list(range(count)), [count - 1, 0, 3, 3]]


@pytest.fixture
def no_decoding_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("everything was decoded")

    monkeypatch.setattr(decoding, "decode_in_order", fail)


@pytest.mark.parametrize("name", SEEKABLE)
@pytest.mark.usefixtures("no_decoding_in_order")
def test_seeking_gives_the_frames_of_decoding_in_order(name: str, tmp_path: Path) -> None:
    file, settings = SEEKABLE[name]
    path = write(tmp_path / file, **settings)
    expected = decode_everything(path)
    assert probe(path).frames == len(expected) == len(FRAMES)
    for indices in some_indices(len(expected)):
        np.testing.assert_array_equal(read_frames(path, indices), expected[indices], err_msg=str(indices))


@pytest.mark.parametrize("name", IN_ORDER)
def test_files_that_only_decoding_in_order_can_read(name: str, tmp_path: Path) -> None:
    file, settings = IN_ORDER[name]
    path = write(tmp_path / file, **settings)
    expected = decode_everything(path)
    assert probe(path).frames == len(expected) == len(FRAMES)
    for indices in some_indices(len(expected))[20:]:
        np.testing.assert_array_equal(read_frames(path, indices), expected[indices], err_msg=str(indices))


def test_packets_without_a_picture(tmp_path: Path) -> None:
    """A cut at an open group's keyframe leaves pictures that refer to what was cut away: they never come out."""
    whole = write(tmp_path / "whole.mkv", options=OPEN_GOP, gop=10)
    with av.open(str(whole)) as container:
        keys = [i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    path = copy_packets(whole, tmp_path / "cut.mkv", skip=keys[2])
    expected = decode_everything(path)
    for indices in ([0], [5, 11], list(range(len(expected)))):
        np.testing.assert_array_equal(read_frames(path, indices), expected[indices])


def test_other_packets_than_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where seeking leads to a gap, what is decoded after it would only look right."""
    path = write(tmp_path / "a.mp4", gop=20, options={"bf": "0"})
    original, calls = decoding.demux, itertools.count()

    def with_a_gap(*args: Any) -> Any:
        first = next(calls) == 0
        return (packet for i, packet in enumerate(original(*args)) if not (first and i == 3))

    monkeypatch.setattr(decoding, "demux", with_a_gap)
    np.testing.assert_array_equal(read_frames(path, [9]), decode_everything(path)[[9]])


@pytest.mark.usefixtures("no_decoding_in_order")
def test_frames_before_an_edit_are_no_frames(tmp_path: Path) -> None:
    """Cutting an MP4 between keyframes keeps the frames before the cut, marked not to be shown."""
    path = write(tmp_path / "whole.mp4", gop=20)
    with av.open(str(path)) as read, av.open(str(tmp_path / "cut.mp4"), "w") as written:
        copy = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.size:
                packet.pts -= 7 * 512
                packet.dts -= 7 * 512
                packet.stream = copy
                written.mux(packet)
    path = tmp_path / "cut.mp4"
    expected = decode_everything(path)
    assert probe(path).frames == len(expected) == len(FRAMES) - 7
    for indices in some_indices(len(expected)):
        np.testing.assert_array_equal(read_frames(path, indices), expected[indices])


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", moving_pictures(200), gop=20, options={"x264-params": "scenecut=0:bframes=0"})
    decoded: list[tuple[int, int]] = []
    original = decoding._decode_stretch

    def spy(container: Any, stream: Any, pts: Any, start: int, stop: int, needed: set[int]) -> Any:
        decoded.append((start, stop))
        return original(container, stream, pts, start, stop, needed)

    monkeypatch.setattr(decoding, "_decode_stretch", spy)
    read_frames(path, [0, 100, 119, 125, 180])
    # A keyframe; one group and, as it follows, the next until frame 125; a keyframe.
    assert decoded == [(0, 0), (100, 125), (180, 180)]


def test_half_of_the_stretches_are_decoded_in_a_second_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", moving_pictures(200), gop=20, options={"x264-params": "scenecut=0:bframes=0"})
    decoded: list[tuple[str, list[int]]] = []
    original = decoding.seek_chosen

    def spy(container: Any, stream: Any, listed: Any, wanted: np.ndarray) -> Any:
        decoded.append((threading.current_thread().name.split("_")[0], wanted.tolist()))
        return original(container, stream, listed, wanted)

    monkeypatch.setattr(decoding, "seek_chosen", spy)
    indices = [5, 30, 70, 110, 131]
    np.testing.assert_array_equal(read_frames(path, indices), decode_everything(path)[indices])
    # Packets to decode: 6, 11, 11, 11 and 12.
    assert sorted(decoded) == [("MainThread", [5, 30, 70]), ("decode", [110, 131])]
    decoded.clear()
    read_by_rule(path, lambda *_: np.array(indices), threads=1)
    read_frames(path, [21, 38])  # a single stretch
    assert decoded == [("MainThread", indices), ("MainThread", [21, 38])]


def test_a_second_thread_that_finds_other_packets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", gop=20, options={"bf": "0"})
    original = decoding.demux

    def with_a_gap(*args: Any) -> Any:
        gap = threading.current_thread() is not threading.main_thread()
        return (packet for i, packet in enumerate(original(*args)) if not (gap and i == 3))

    monkeypatch.setattr(decoding, "demux", with_a_gap)
    np.testing.assert_array_equal(read_frames(path, [9, 49]), decode_everything(path)[[9, 49]])


@pytest.mark.parametrize(("width", "threads"), [(64, 1), (1280, 0)])
def test_small_pictures_are_decoded_by_one_thread(width: int, threads: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving_pictures(2, 720, width))
    with opening.open_video(path) as (_, stream):
        assert stream.codec_context.thread_count == threads
    with opening.open_video(path, 3) as (_, stream):
        assert stream.codec_context.thread_count == 3


def test_a_file_is_not_read_far_beyond_the_last_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mkv", moving_pictures(400, 16, 16))
    read: list[int] = []
    original = packets.demux

    def counting(*args: Any) -> Any:
        return (read.append(1) or packet for packet in original(*args))

    monkeypatch.setattr(packets, "demux", counting)
    np.testing.assert_array_equal(read_frames(path, [3, 7]), decode_everything(path)[[3, 7]])
    assert len(read) == 8 + packets.FARTHEST_REORDERING


def test_stretches_are_joined_where_they_touch() -> None:
    assert decoding._stretches([0, 0, 10, 30, 40], [3, 9, 12, 35, 42]) == [(0, 12), (30, 35), (40, 42)]
    assert decoding._stretches([0, 0, 20], [8, 5, 25]) == [(0, 8), (20, 25)]


def test_decoding_begins_at_the_keyframe_shown_and_stored_before() -> None:
    listed = packets.PacketList(
        codec="h264",
        # A keyframe at position 4 with two leading pictures (pts 4 and 5), which refer to the group before.
        pts=np.array([0, 3, 1, 2, 6, 4, 5, 9, 7, 8]),
        seek_to=np.zeros(10, np.int64),
        keyframe=np.array([i in (0, 4) for i in range(10)]),
        shown=np.ones(10, bool),
        timed=True,
        fps=30.0,
        seconds=np.arange(11) / 30,
        missing=0,
        complete=True,
    )
    assert listed.order.tolist() == [0, 2, 3, 1, 5, 6, 4, 8, 9, 7]
    assert listed.start_for(np.array([3, 5, 6, 4, 8])).tolist() == [0, 0, 0, 4, 4]


def test_the_mean_frame_rate_counts(tmp_path: Path) -> None:
    """Matroska's header tells the nominal rate, even if most frames were left out."""
    path = write(tmp_path / "a.mkv", pts=[6 * i for i in range(len(FRAMES))])
    info = probe(path)
    assert info.fps == pytest.approx(5, rel=1e-3)
    assert info.duration == pytest.approx(10, rel=1e-3)


MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "a quarter clockwise": ((0, 1, -1, 0), lambda frames: np.rot90(frames, -1, axes=(1, 2))),
    "a half": ((-1, 0, 0, -1), lambda frames: np.rot90(frames, 2, axes=(1, 2))),
    "a quarter counter-clockwise": ((0, -1, 1, 0), lambda frames: np.rot90(frames, 1, axes=(1, 2))),
    "mirrored": ((-1, 0, 0, 1), lambda frames: frames[:, :, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda frames: frames[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda frames: frames.swapaxes(1, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_pictures_come_upright(name: str, tmp_path: Path) -> None:
    matrix, turn = MATRICES[name]
    path = write(tmp_path / "a.mp4", FRAMES[:9])
    stored = decode_everything(path)
    rotate(path, matrix)
    np.testing.assert_array_equal(read_frames(path, range(9)), turn(stored))
    info = probe(path)
    assert (info.height, info.width) == turn(stored).shape[1:3]


@pytest.mark.parametrize(
    ("file", "settings", "size", "largest_error"),
    [
        ("10 bits.mp4", {"pix_fmt": "yuv420p10le"}, (64, 96), 10),
        ("gray.mp4", {"pix_fmt": "gray"}, (64, 96), 40),
        ("gray 10 bits.mkv", {"codec": "ffv1", "pix_fmt": "gray10le"}, (64, 96), 40),
        ("rgb.mp4", {"codec": "libx264rgb", "pix_fmt": "rgb24"}, (64, 96), 10),
        ("alpha.mov", {"codec": "qtrle", "pix_fmt": "argb"}, (64, 96), 0),
        ("alpha.webm", {"codec": "libvpx-vp9", "pix_fmt": "yuva420p"}, (64, 96), 10),
        ("odd.mp4", {"pix_fmt": "yuv444p"}, (63, 127), 10),
        ("odd.webm", {"codec": "libvpx-vp9"}, (63, 127), 10),
        ("tiny.mkv", {"codec": "mpeg4"}, (9, 17), 60),
    ],
)
def test_kinds_of_pictures(
    file: str, settings: dict[str, Any], size: tuple[int, int], largest_error: float, tmp_path: Path
) -> None:
    frames = moving_pictures(10, *size)
    path = write(tmp_path / file, frames, **settings)
    clip = read_frames(path, range(10))
    np.testing.assert_array_equal(clip, decode_everything(path))
    assert clip.dtype == np.uint8
    assert clip.shape == (10, *size, 3)
    assert np.abs(clip.astype(float) - frames).mean() <= largest_error


def test_a_picture_size_that_changes(tmp_path: Path) -> None:
    large = write(tmp_path / "large.h264", FRAMES[:10])
    small = write(tmp_path / "small.h264", moving_pictures(10, 32, 48))
    (tmp_path / "both.h264").write_bytes(large.read_bytes() + small.read_bytes())
    both = tmp_path / "both.h264"
    with pytest.warns(ChangingSizeWarning, match=r"both\.h264 changes its size in mid-stream \(96x64, 48x32\)"):
        clip = read_frames(both, [0, 9, 10, 19])
    np.testing.assert_array_equal(clip[:2], decode_everything(large)[[0, 9]])
    assert clip.shape == (4, 64, 96, 3)
    shapes: list[tuple[int, ...]] = []
    read_by_rule(
        both, lambda *_: np.array([0, 9, 10, 19]), prepare=lambda frame: shapes.append(frame.shape) or frame[:9, :9]
    )
    assert shapes == [(64, 96, 3)] * 2 + [(32, 48, 3)] * 2


def test_other_sizes_are_cut_and_not_stretched(tmp_path: Path) -> None:
    """A square in a wide picture stays a square, though the first picture is a narrow one."""
    wide = np.zeros((5, 48, 96, 3), np.uint8)
    wide[:, 12:36, 36:60] = 255
    first = write(tmp_path / "first.h264", moving_pictures(5, 96, 96))
    (tmp_path / "both.h264").write_bytes(first.read_bytes() + write(tmp_path / "second.h264", wide).read_bytes())
    with pytest.warns(ChangingSizeWarning):
        last = read_frames(tmp_path / "both.h264", [0, 9])[1, :, :, 0] > 128
    assert last.any(axis=0).sum() == pytest.approx(48, abs=2)
    assert last.any(axis=1).sum() == pytest.approx(48, abs=2)


TRANSPORT = {"codec": "mpeg2video", "options": {"bf": "0"}}


@pytest.mark.parametrize(
    ("file", "first", "then"),
    [
        ("a.ts", {}, TRANSPORT),
        ("a.ts", TRANSPORT, {}),
        ("a.ts", {}, {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
        ("a.ts", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}, {}),
        ("a.h264", {}, TRANSPORT),
    ],
)
def test_a_codec_that_changes_is_named(file: str, first: dict[str, Any], then: dict[str, Any], tmp_path: Path) -> None:
    both = tmp_path / f"both {file}"
    suffix = "ts" if file == "a.ts" else "m2v"
    parts = write(tmp_path / file, **first), write(tmp_path / f"then.{suffix}", **then)
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    names = [settings.get("codec", "h264").removeprefix("libx").replace("265", "hevc") for settings in (first, then)]
    with pytest.raises(VideoError, match=f"changes its codec from {names[0]} to {names[1]} in mid-stream"):
        read_frames(both, [3, 90])


def rewrite(source: Path, target: Path, *options: str) -> Path:
    """Copy packets with timestamps in the order in which they are stored."""
    ffmpeg("-i", source, "-c", "copy", *options, target)
    return target


@pytest.mark.parametrize("suffix", ["mp4", "mov", "3gp", "mkv", "nut", "ts", "asf"])
@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "libx264"])
def test_timestamps_that_deny_reordering(codec: str, suffix: str, tmp_path: Path) -> None:
    if codec == "mpeg2video" and suffix == "3gp":
        pytest.skip("3GP has no MPEG-2")
    source = write(tmp_path / "source.mkv", codec=codec, options={"bf": "2"})
    annexb = {"libx264": ",h264_mp4toannexb", "mpeg4": ",dump_extra"}.get(codec, "") if suffix == "ts" else ""
    path = rewrite(source, tmp_path / f"a.{suffix}", "-bsf:v", f"setts=pts=DTS{annexb}")
    expected = decode_everything(path)
    last = len(expected) - 1  # MP4 hides the frames before time 0
    for indices in ([1], [4], [2, 7], [last], list(range(last))):
        np.testing.assert_array_equal(read_frames(path, indices), expected[indices], err_msg=str(indices))


def test_mpeg4_copied_from_avi(tmp_path: Path) -> None:
    source = write(tmp_path / "a.avi", codec="mpeg4", options={"bf": "2"})
    path = rewrite(source, tmp_path / "b.mp4")
    for each in (path, rewrite(path, tmp_path / "c.mkv")):
        expected = decode_everything(each)
        for index in range(10):
            np.testing.assert_array_equal(read_frames(each, [index]), expected[[index]])


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("a.mkv", {"gop": 2}),
        ("a.mp4", {"codec": "mpeg2video", "options": {"bf": "0"}}),
        ("a.ts", {"codec": "mpeg2video", "options": {"bf": "0"}}),
        ("a.avi", {"codec": "mpeg2video", "options": {"bf": "0"}}),
    ],
)
@pytest.mark.usefixtures("no_decoding_in_order")
def test_codecs_that_might_reorder_and_do_not(file: str, settings: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / file, **settings)
    np.testing.assert_array_equal(read_frames(path, [1, 33]), decode_everything(path)[[1, 33]])


@pytest.mark.parametrize("rate", [24, 25, 30])
@pytest.mark.parametrize("clock", [300, 600, 1000])
def test_h264_in_avi_whose_header_tells_a_clock(rate: int, clock: int, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mkv", fps=rate, options={"bf": "3"})
    path = tmp_path / "a.avi"
    ffmpeg("-i", source, "-c", "copy", "-bsf:v", f"h264_mp4toannexb,setts=time_base=1/{clock}", path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == clock, "the input is not what was meant"
    info = probe(path)
    assert info.frames == 50
    assert info.fps == pytest.approx(rate, rel=0.05)
    np.testing.assert_array_equal(
        read_clip(path, 4, sampling_rate=6), decode_everything(path)[clip_indices(50, info.fps, 4, 6)]
    )


def test_the_rate_of_raw_h264_is_the_one_that_it_tells(tmp_path: Path) -> None:
    for rate in (15, 30, 50):
        assert probe(write(tmp_path / "a.h264", fps=rate)).fps == rate


def test_a_clock_that_is_set_anew_is_no_rate(tmp_path: Path) -> None:
    part = write(tmp_path / "a.ts").read_bytes()
    (tmp_path / "twice.ts").write_bytes(2 * part)
    assert probe(tmp_path / "twice.ts").fps == 30


# Damage


def test_frames_lost_to_damage_are_replaced_by_the_nearest_earlier(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", codec="mjpeg", pix_fmt="yuvj420p")  # each packet is its own keyframe
    sound = decode_everything(path)
    destroy_packets(path, {20, 21, 22, 40})
    with pytest.warns(DamagedVideoWarning, match=r"a\.mp4 is damaged: 46 of 50 frames could be read"):
        clip = read_frames(path, [2, 19, 20, 22, 23, 40, 49])
    np.testing.assert_array_equal(clip, sound[[2, 19, 19, 19, 23, 39, 49]])


def test_a_lost_first_frame_is_replaced_by_the_first_later(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", codec="mjpeg", pix_fmt="yuvj420p")
    sound = decode_everything(path)
    destroy_packets(path, {0, 1})
    with pytest.warns(DamagedVideoWarning, match="48 of 50"):
        clip = read_frames(path, [0, 1, 2, 3])
    np.testing.assert_array_equal(clip, sound[[2, 2, 2, 3]])


def test_damage_elsewhere_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", gop=10, options={"x264-params": "scenecut=0"})
    sound = decode_everything(path)
    destroy_packets(path, set(range(21, 29)))
    np.testing.assert_array_equal(read_frames(path, [3, 19, 30, 49]), sound[[3, 19, 30, 49]])
    with pytest.warns(DamagedVideoWarning, match=r"\d+ of 50"):
        clip = read_frames(path, [19, 25, 30])
    np.testing.assert_array_equal(clip[[0, 2]], sound[[19, 30]])


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.mp4", {"container_options": {"movflags": "faststart"}}),
    ],
)
def test_a_file_that_is_cut_short(file: str, settings: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / file, **settings)
    sound = decode_everything(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.8)])
    with pytest.warns(DamagedVideoWarning, match=r"is damaged: \d+ of \d+ frames") as caught:
        clip = read_clip(path, 8)
    words = str(caught[0].message).split()
    read, total = int(words[words.index("of") - 1]), int(words[words.index("of") + 1])
    assert 8 <= read < 50
    assert abs(total - 50) <= 1
    # Frames from the part that is there, spread over it.
    same = [np.flatnonzero((frame == sound).all(axis=(1, 2, 3))) for frame in clip]
    assert all(len(found) == 1 and found[0] < read for found in same)


def test_a_file_without_one_sound_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", codec="mjpeg", pix_fmt="yuvj420p")
    destroy_packets(path, set(range(50)))
    with pytest.raises(VideoError, match=r"No frame of .*a\.mp4 could be decoded"):
        read_clip(path, 8)


def damaged(data: bytes, rng: np.random.Generator, kind: int) -> bytes:
    """Cut short, with some bits flipped, with a stretch of noise, or with a stretch left out."""
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 2000))
    if kind == 0:
        return data[: place + 1]
    if kind == 1:
        flipped = bytearray(data)
        for i in rng.integers(len(data), size=rng.integers(1, 20)):
            flipped[i] ^= 1 << int(rng.integers(8))
        return bytes(flipped)
    noise = rng.bytes(min(length, len(data) - place)) if kind == 2 else b""
    return data[:place] + noise + data[place + length :]


def survive(path: Path, data: bytes, trials: int) -> int:
    """Damage a file in many ways; the number of those in which it could still be read."""
    rng, read = np.random.default_rng(0), 0
    for trial, kind in zip(range(trials), itertools.cycle(range(4))):
        path.write_bytes(damaged(data, rng, kind))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)  # damage may also look like another size
            message, clip = str(path), None
            try:
                clip = read_clip(path, 8)
            except VideoError as error:
                message = str(error)
        assert str(path) in message, trial
        if clip is not None:
            assert clip.shape == (8, *clip.shape[1:3], 3), trial
            read += 1
    return read


@pytest.mark.parametrize("file", ["a.mp4", "a.mkv", "a.avi"])
def test_damage_anywhere(file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / file, container_options={"movflags": "faststart"} if file == "a.mp4" else {}).read_bytes()
    capfd.readouterr()
    assert survive(tmp_path / file, data, 24) >= 12
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SEEKABLE, *IN_ORDER])
def test_damage_anywhere_at_length(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, settings = (SEEKABLE | IN_ORDER)[name]
    data = write(tmp_path / file, **settings).read_bytes()
    capfd.readouterr()
    survive(tmp_path / file, data, 300)
    assert capfd.readouterr().err == ""
