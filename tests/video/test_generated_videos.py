"""Videos of many kinds, made by FFmpeg's program: each frame is the one that FFmpeg decodes there, however it is read.

What is varied: codec, container, pixel format, B-frames, open and closed groups of pictures and their size, frame rate
(also a variable one), start offset, edit list and rotation.
"""

import dataclasses
import hashlib
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from videos import ffmpeg

from timesformer_jax.errors import VideoError
from timesformer_jax.video.notices import DamagedVideoWarning
from timesformer_jax.video.reading import probe, read_frames
from timesformer_jax.video.sampling import SlidingWindows
from timesformer_jax.video.streaming import stream_clips

FRAMES = 26

# Encoder: its options, containers and pixel formats.
ENCODERS: dict[str, tuple[str, str, str]] = {
    "libx264": ("-preset veryfast", "mp4 mov mkv avi ts flv nut h264 m4v", "yuv420p yuvj420p yuv422p yuv444p gray"),
    "libx264 high10": ("-preset veryfast", "mp4 mkv ts", "yuv420p10le yuv422p10le"),
    "libx265": ("-preset ultrafast", "mp4 mkv ts mov nut hevc", "yuv420p yuv420p10le yuv444p"),
    "mpeg4": ("-q:v 4", "mp4 avi mkv mov ts nut 3gp asf m4v", "yuv420p"),
    "libxvid": ("-q:v 4", "avi mp4 mkv", "yuv420p"),
    "mpeg2video": ("-q:v 4", "ts mpg mkv avi mp4 m2v vob", "yuv420p yuv422p"),
    "mpeg1video": ("-q:v 4", "mpg mkv avi", "yuv420p"),
    "libvpx": ("-deadline realtime -auto-alt-ref 1 -lag-in-frames 8", "webm mkv ivf avi", "yuv420p"),
    "libvpx-vp9": ("-deadline realtime -cpu-used 8", "webm mp4 mkv ivf", "yuv420p yuv444p"),
    "libaom-av1": ("-cpu-used 8 -usage realtime", "mp4 mkv webm ivf", "yuv420p"),
    "mjpeg": ("-q:v 3", "avi mov mkv mp4", "yuvj420p yuvj444p"),
    "prores_ks": ("", "mov mkv", "yuv422p10le"),
    "ffv1": ("", "mkv avi nut", "yuv420p yuv444p gray"),
    "qtrle": ("", "mov", "rgb24"),
    "huffyuv": ("", "avi mkv", "yuv422p"),
    "wmv2": ("-q:v 4", "wmv asf avi", "yuv420p"),
    "flv": ("-q:v 4", "flv avi", "yuv420p"),
    "msmpeg4": ("-q:v 4", "avi mkv", "yuv420p"),
    "libtheora": ("-q:v 6", "ogg mkv", "yuv420p"),
    "gif": ("", "gif", "rgb8"),
    "apng": ("-plays 0", "apng", "rgb24"),
}
RATES = ["10", "24000/1001", "25", "30", "60", "variable"]
EDITS = ("mp4", "mov", "m4v")


@dataclasses.dataclass(frozen=True)
class Recipe:
    encoder: str
    container: str
    pix_fmt: str
    b_frames: int
    open_groups: bool
    gop: int
    rate: str
    offset: float
    cut: float
    rotation: int


def draw(number: int) -> Recipe:
    """The recipe of a number; encoders take turns."""
    rng = np.random.default_rng([14, number])
    names = [
        name for name in ENCODERS for _ in range(4 if name in ("libx264", "libx265", "mpeg4", "mpeg2video") else 1)
    ]
    encoder = names[number % len(names)]
    _, containers, formats = ENCODERS[encoder]
    container = str(rng.choice(containers.split()))
    movable = container not in ("h264", "hevc", "m2v", "gif", "apng", "ivf")
    return Recipe(
        encoder,
        container,
        str(rng.choice(formats.split())),
        b_frames=int(rng.choice([0, 2, 3])),
        open_groups=bool(rng.integers(2)),
        gop=int(rng.choice([1, 5, 12, 250])),
        rate=str(rng.choice(RATES)),
        offset=float(rng.choice([0, 0, 1.5])) if movable else 0.0,
        cut=float(rng.choice([0, 0.37])) if container in EDITS else 0.0,
        rotation=int(rng.choice([0, 90, 180, 270])) if container in EDITS else 0,
    )


def make(recipe: Recipe, folder: Path) -> Path:
    """Encode a test picture; then copy the packets with another start, cut between keyframes or turned."""
    path = folder / f"made.{recipe.container}"
    rate = "30" if recipe.rate == "variable" else recipe.rate
    filters = ["-vf", "select='lt(mod(n,7),3)+not(mod(n,5))'", "-fps_mode", "vfr"] if recipe.rate == "variable" else []
    name, options = recipe.encoder.split()[0], ENCODERS[recipe.encoder][0].split()
    if name in ("libx264", "mpeg4", "libxvid", "mpeg2video", "mpeg1video"):
        options += ["-bf", str(recipe.b_frames)]
    if name == "libx264":
        options += ["-x264-params", f"open-gop={int(recipe.open_groups)}:scenecut=0"]
    elif name == "libx265":
        groups = f"open-gop={int(recipe.open_groups)}:bframes={recipe.b_frames}:keyint={recipe.gop}"
        options += ["-x265-params", f"log-level=none:{groups}:min-keyint=1:scenecut=0"]
    elif name in ("mpeg4", "mpeg2video", "mpeg1video") and not recipe.open_groups:
        options += ["-flags", "+cgop", "-sc_threshold", "1000000000"]
    source = f"testsrc2=size=64x48:rate={rate}"
    encode = [
        *filters,
        "-frames:v",
        str(FRAMES),
        "-c:v",
        name,
        *options,
        "-g",
        str(recipe.gop),
        "-pix_fmt",
        recipe.pix_fmt,
    ]
    moved = ["-output_ts_offset", str(recipe.offset), "-muxdelay", "0"] if recipe.offset else []
    ffmpeg("-f", "lavfi", "-i", source, *encode, "-threads", "1", "-strict", "-2", *moved, path)
    if recipe.cut or recipe.rotation:
        whole = path.rename(folder / f"whole.{recipe.container}")
        ffmpeg("-ss", str(recipe.cut), "-display_rotation", str(recipe.rotation), "-i", whole, "-c", "copy", path)
    return path


def true_frames(path: Path) -> list[str]:
    """The MD5 of each frame that FFmpeg's program decodes, in its own pixel format."""
    listed = ffmpeg(
        "-threads", "1", "-noautorotate", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-"
    ).decode()
    return [line.split(",")[-1].strip() for line in listed.splitlines() if line and not line.startswith("#")]


def raw_bytes(frame: av.VideoFrame) -> bytes:
    """The samples of a frame's planes, without what fills up the rows."""
    pixels: list[bytes] = []
    for plane in frame.planes:
        one = (
            frame.format.padded_bits_per_pixel // 8
            if len(frame.planes) == 1
            else -(-frame.format.components[0].bits // 8)
        )
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        pixels.append(rows[: plane.height, : plane.width * one].tobytes())
    return b"".join(pixels)


def decoded_frames(path: Path) -> tuple[list[str], np.ndarray]:
    """The MD5 of each frame that PyAV decodes in order, in its own pixel format; and its RGB."""
    sums: list[str] = []
    pictures: list[np.ndarray] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # Theora repeats a frame by an empty packet, which means the end to PyAV, and nothing to FFmpeg's program.
        packets = (packet for packet in container.demux(stream) if packet.size)
        for frame in (frame for packet in (*packets, None) for frame in stream.codec_context.decode(packet)):
            sums.append(hashlib.md5(raw_bytes(frame)).hexdigest())
            pictures.append(frame.to_ndarray(format="rgb24"))
    return sums, np.stack(pictures)


def check(number: int, folder: Path) -> str:
    """Compare; "read", or why the file was refused, or could not be made."""
    recipe = draw(number)
    try:
        path = make(recipe, folder)
    except subprocess.CalledProcessError as error:
        return f"not made: {error.stderr.decode().splitlines()[:1]}"
    sums, pictures = decoded_frames(path)
    assert sums == true_frames(path), f"{recipe}: PyAV decodes other frames than FFmpeg"
    expected = np.rot90(pictures, recipe.rotation // 90, axes=(1, 2))
    try:
        info = probe(path)
    except VideoError as error:
        return f"refused: {error}"
    assert info.frames == len(expected), recipe
    assert (info.height, info.width) == expected.shape[1:3], recipe
    np.testing.assert_array_equal(read_frames(path, range(len(expected))), expected, err_msg=f"by index: {recipe}")
    for index in range(len(expected)):
        np.testing.assert_array_equal(
            read_frames(path, [index])[0], expected[index], err_msg=f"{index} alone: {recipe}"
        )
    plan = SlidingWindows(5, 60 / (info.fps or 30), 0.4)
    rows = plan.indices(info.frames, info.fps)
    windows = list(stream_clips(path, plan.indices, np.copy))
    np.testing.assert_array_equal(windows, expected[rows], err_msg=f"windows: {recipe}")
    return "read"


def check_all(numbers: range, tmp_path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    faults: list[str] = []
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            outcome = check(number, folder)
        except (AssertionError, DamagedVideoWarning) as error:
            faults.append(f"{number}: {str(error).strip()[:600]}")
            continue
        counts[outcome] = counts.get(outcome, 0) + 1
    assert not faults, "\n".join(faults)
    return counts


@pytest.mark.slow
def test_thirty_generated_videos(tmp_path: Path) -> None:
    counts = check_all(range(30), tmp_path)
    assert counts["read"] == 30, counts


@pytest.mark.long
def test_generated_videos(tmp_path: Path) -> None:
    counts = check_all(range(320), tmp_path)
    print(counts)
    assert counts["read"] >= 300, counts
