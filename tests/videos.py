"""Real video files for the tests, made with PyAV, and the plain way to read them."""

import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 would write about itself to stderr


def ffmpeg(*arguments: str | Path) -> bytes:
    """Run FFmpeg's own program, and give what it writes to standard output."""
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def moving_pictures(count: int, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """(count, height, width, 3) uint8: coloured blocks that move, under a bar whose brightness tells the frame."""
    blocks = np.random.default_rng(seed).integers(0, 160, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    texture = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    frames = np.stack([np.roll(texture, 2 * i, axis=1) for i in range(count)])
    frames[:, : height // 6] = (np.arange(count) * 37 % 256).astype(np.uint8)[:, None, None, None]
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 30,
    gop: int = 12,
    pts: list[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    sound: float = 0,
) -> Path:
    """Encode `frames`, at `pts` (in 1/fps seconds) where given, with so many seconds of `sound`."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = gop
        if sound:
            write_sound(container, seconds=sound)
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts = pts[i] if pts else i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(container: Any, seconds: float) -> None:
    stream = container.add_stream("aac", rate=16000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, int(16000 * seconds)), np.float32), "fltp", "mono")
    frame.sample_rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def rotate(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix into the track header of an MP4 file: (a, b, c, d) of x' = a x + c y, y' = b x + d y."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    # "tkhd", version and flags, five 32-bit fields, two reserved, four 16-bit fields, then the matrix.
    offset = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    data[offset : offset + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def decode_everything(path: Path) -> np.ndarray:
    """The frames of a sound file, decoded in order as Transformers' documentation does."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def copy_packets(source: Path, target: Path, skip: int, **options: str) -> Path:
    """Cut off the first `skip` packets without coding anew; the rest begins at time 0."""
    with av.open(str(source)) as read, av.open(str(target), "w", options=options) as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        packets = [packet for packet in read.demux(stream) if packet.size][skip:]
        begin = min(packet.pts for packet in packets)  # an open group shows some pictures before its keyframe
        for packet in packets:
            packet.pts -= begin
            packet.dts = None if packet.dts is None else packet.dts - begin
            packet.stream = copy
            written.mux(packet)
    return target


def destroy_packets(path: Path, positions: set[int]) -> None:
    """Overwrite the contents of the packets at these positions of a video stream."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position in positions:
        begin, size = places[position]
        data[begin : begin + size] = b"\xff" * size
    path.write_bytes(data)
