"""Everything in a video file decoded in order: right whatever the timestamps say, and for damaged files, too."""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from ..errors import VideoError
from .notices import DamagedVideoWarning
from .opening import open_video
from .packets import PacketList, VideoFile, demux
from .rgb import to_rgb

Frames = dict[int, UInt8[np.ndarray, "h w 3"]]
Rule = Callable[[int, float | None], Int64[np.ndarray, "..."]]
"""Gives the indices of the frames to read, from the number of frames and the frames a second of a video."""

HEADERS = {
    "h264": rb"\x00\x00\x01[\x27\x47\x67]",
    "hevc": rb"\x00\x00\x01\x40\x01",
    "mpeg1video": rb"\x00\x00\x01\xb3",
    "mpeg2video": rb"\x00\x00\x01\xb3",
    "mpeg4": rb"\x00\x00\x01[\x20-\x2f]",
}
"""Codecs that can be decoded from the bytes of their packets alone, and how what must come first begins."""

_DELAY = 32
"""Packets after which a frame may still come out that was in packets before them."""

_ENOUGH_SILENT = 90
"""Packets that suffice to tell a codec."""

_CHANCE = 2
"""Frames that a decoder may find where there are none of its codec. (None were ever seen.)"""


def decode_in_order(
    path: VideoFile, packets: PacketList, rule: Rule, threads: int = 0
) -> tuple[Frames, Int64[np.ndarray, "..."], int]:
    """Decodes a whole file and keeps the frames that `rule` chooses, whatever the timestamps or the damage.

    Returns:
        The frames, the key among them of each frame that was asked for, and how many frames were lost.
    """
    keys, output = rule(packets.count, packets.fps), Output()
    frames = dict(decode_chosen(path, set(keys.ravel().tolist()).__contains__, output, threads))
    keys, lost = find_decoded(path, packets, rule, keys, output)
    if not set(keys.ravel().tolist()) <= frames.keys():
        frames = dict(decode_chosen(path, set(keys.ravel().tolist()).__contains__, Output(), threads))
    return frames, keys, lost


@dataclass
class Output:
    """What came out of a decoder so far.

    Attributes:
        stamps: the timestamps of all frames.
        failures: how many packets could not be decoded.
        silent: the longest run of packets on which nothing came out, with some before it, but not all of a long run.
    """

    stamps: list[int | None] = field(default_factory=list)
    failures: int = 0
    silent: list[bytes] = field(default_factory=list)


def find_decoded(
    path: VideoFile, packets: PacketList, rule: Rule, indices: Int64[np.ndarray, "..."], output: Output
) -> tuple[Int64[np.ndarray, "..."], int]:
    """Finds frames, whose `indices` the rule gave, in the decoder's output for a whole file.

    Where nothing failed, what comes out of the decoder are the frames. Where something did, frames are told by their
    timestamps, and the nearest earlier frame that came out (or the first) stands in for each that was lost.

    Returns:
        The frames' numbers in the output, and how many frames of the file were lost.
    """
    stamps = output.stamps
    if not stamps:
        raise VideoError(f"No frame of {path} could be decoded; the file is damaged or not what its name says.")
    if len(stamps) < packets.count:
        require_one_codec(path, packets.codec, output.silent)
    # Timed packets hold one frame each, but where an edit hides some, decoders may keep one of the others back. Packets
    # without times may hold two or none. There, fewer frames are no sign of damage.
    one_each = packets.timed and bool(packets.shown.all())
    lost = max(packets.count - len(stamps), 0) if output.failures or one_each else 0
    if lost and packets.timed and None not in stamps:
        return nearest_earlier(np.array(stamps), packets.pts[packets.order])[indices], lost
    return (indices if len(stamps) == packets.count else rule(len(stamps), packets.fps)), lost


def decode_chosen(
    path: VideoFile, wanted: Callable[[int], bool], output: Output, threads: int = 0
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """Decodes everything in order but for what can't be decoded, and yields the frames whose numbers are wanted.

    A frame's number counts in the decoder's output; `output` is brought up to date on the way.
    """
    from av.error import FFmpegError

    with open_video(path, threads) as (container, stream):
        silent: list[bytes] = []
        for packet in chain(demux(container, stream), [None]):
            if packet is not None and len(silent) < _ENOUGH_SILENT:
                silent.append(bytes(packet))
            if len(silent) >= len(output.silent):
                output.silent = silent
            try:
                for frame in decode(stream.codec_context, packet):
                    silent = silent[-_DELAY:]
                    number = len(output.stamps)
                    picture = to_rgb(frame) if wanted(number) else None
                    output.stamps.append(frame.pts)
                    if picture is not None:
                        yield number, picture
            except FFmpegError:
                output.failures += 1


def decode(context: Any, packet: Any) -> list[Any]:
    """The frames that come out of a decoder for a packet, or for its end (None).

    Raises:
        FFmpegError: the packet can't be decoded. After one with which the decoder could not be opened, PyAV 19.0.2
            raises a ValueError for every other, where earlier versions try again.
    """
    from av.error import FFmpegError, InvalidDataError

    try:
        return context.decode(packet)
    except ValueError as error:
        if isinstance(error, FFmpegError) or context.is_open:
            raise
        raise InvalidDataError(0, str(error)) from error


def require_one_codec(path: VideoFile, codec: str, silent: list[bytes]) -> None:
    """Looks whether packets on which nothing came out of a decoder are those of another codec.

    So it is where recordings were joined byte by byte.

    Raises:
        VideoError: they are.
    """
    for other, header in HEADERS.items() if codec in HEADERS else ():
        begin = re.search(header, data := b"".join(silent))
        if HEADERS[codec] != header and begin and _count_frames(data[begin.start() :], other) > _CHANCE:
            raise VideoError(
                f"{path} changes its codec from {codec} to {other} in mid-stream, so that it can't all be decoded: "
                "code it anew as one stream, or cut it where the codec changes."
            )


def _count_frames(data: bytes, codec: str) -> int:
    """How many frames a codec finds in bytes that may be packets of another, or damaged."""
    import av
    from av.error import FFmpegError

    context: Any = av.CodecContext.create(codec, "r")
    count = 0
    for packet in [*context.parse(data), *context.parse(None), None]:
        with contextlib.suppress(FFmpegError):
            count += len(decode(context, packet))
    return count


def nearest_earlier(available: Int64[np.ndarray, "n"], wanted: Int64[np.ndarray, "*m"]) -> Int64[np.ndarray, "*m"]:
    """The position in the ascending `available` of the last value not above each of `wanted`; 0 if all are above."""
    return np.maximum(np.searchsorted(available, wanted, side="right") - 1, 0)


def warn_of_damage(path: object, read: int, total: int) -> None:
    """Warns of how many frames of a video could be read."""
    message = f"{path} is damaged: {read} of {total} frames could be read; the nearest of them stand in for the rest."
    warnings.warn(message, DamagedVideoWarning, stacklevel=5)  # whoever called read_clip
