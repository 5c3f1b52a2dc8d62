"""The packets of a video file, listed without decoding any.

This gives the exact number of frames, whatever the header says, and tells where decoding can begin.

Terms as in FFmpeg: a *packet* is one compressed picture; packets are stored in the order in which they are decoded,
and a packet's *position* counts in that order. *pts* is the presentation timestamp. A frame's *index* counts in
presentation order.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ..errors import VideoError
from .picture_types import KNOWN, holds_b_picture
from .sampling import REFERENCE_FPS

if TYPE_CHECKING:  # PyAV is imported where a file is opened, so that `import timesformer_jax` stays fast
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

FARTHEST_REORDERING = 64
"""How many places the presentation order may differ from the storage order. No codec comes near it: where the
difference is greater, the clock was set anew within the file."""


@dataclass(frozen=True)
class EncodedVideo:
    """The contents of a video file, in memory.

    Attributes:
        name: what messages call it.
        data: the bytes of the file.
    """

    name: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FileStream(os.PathLike[str]):
    """One of several video streams of a file; stands wherever a video's path does.

    Attributes:
        path: the video file.
        number: of the stream, counted from 0 among the file's video streams, as FFmpeg's `v:0` counts them.
    """

    path: str | os.PathLike[str]
    number: int

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)


VideoFile = str | os.PathLike[str] | EncodedVideo


@dataclass(frozen=True, eq=False)
class PacketList:
    """The packets of one video stream in storage order.

    Attributes:
        codec: the name of the stream's decoder.
        pts: presentation timestamps, in the stream's time base.
        seek_to: timestamps to seek to so as to arrive at a packet or before it.
        keyframe: packets from which decoding can begin.
        shown: packets that give a frame; others only help to decode frames, or lie before the clip's cut.
        timed: whether the timestamps identify the frames and order them.
        fps: mean frames a second, None if unknown.
        seconds: when each frame is shown, counted from the first, by index; and last, when the last frame ends.
        missing: about how many frames the header announces beyond the end of the file.
        complete: whether the file was read to its end.
    """

    codec: str
    pts: Int64[np.ndarray, "p"]
    seek_to: Int64[np.ndarray, "p"]
    keyframe: Bool[np.ndarray, "p"]
    shown: Bool[np.ndarray, "p"]
    timed: bool
    fps: float | None
    seconds: Float64[np.ndarray, " n"]
    missing: int
    complete: bool

    @property
    def count(self) -> int:
        """Number of frames."""
        return int(self.shown.sum())

    @property
    def order(self) -> Int64[np.ndarray, "f"]:
        """The position of each frame, by index."""
        shown = np.flatnonzero(self.shown)
        return shown[np.argsort(self.pts[shown], kind="stable")] if self.timed else shown

    def start_for(self, positions: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        """The positions of the keyframes from which to decode the frames at `positions`.

        The last keyframe that is both stored and shown no later than the frame. One that is stored before but
        shown after the frame begins an open group of pictures: its leading pictures refer to the group before.
        """
        keys = np.flatnonzero(self.keyframe)
        stored = np.searchsorted(keys, positions, side="right") - 1
        shown = np.searchsorted(self.pts[keys], self.pts[positions], side="right") - 1
        return keys[np.minimum(stored, shown)]


def list_packets(container: "InputContainer", stream: "VideoStream", highest: int | None = None) -> PacketList:
    """Reads a file to its end without decoding it.

    Args:
        container: the open file.
        stream: its video stream.
        highest: the highest frame index of interest, so that what comes well after it need not be read.

    Raises:
        VideoError: if the file holds no frames.
    """
    codec, reorders = stream.codec_context.name, bool(stream.codec_context.has_b_frames)
    rows: list[tuple[int | None, int | None, bool, bool, int]] = []
    last: dict[int, Packet] = {}  # of every stream, as the sound may go on after the last picture
    extradata, b_pictures, ascending = stream.codec_context.extradata, False, True
    count, enough = 0, math.inf if highest is None else highest + 1 + FARTHEST_REORDERING
    for packet in demux(container):
        last[packet.stream_index] = packet
        if packet.stream_index == stream.index:
            # VP8 keeps invisible reference pictures in packets of their own: bit 4 of the first byte says "show".
            shown = not packet.is_discard and (codec != "vp8" or bool(memoryview(packet)[0] & 16))
            ascending = ascending and packet.pts is not None and (not rows or packet.pts > (rows[-1][0] or 0))
            if ascending and reorders and not b_pictures:
                b_pictures = codec not in KNOWN or holds_b_picture(codec, bytes(packet), extradata)
            rows.append((packet.pts, packet.dts, packet.is_keyframe, shown, packet.size))
            count += shown
            if count >= enough:
                break
    if not count:
        raise VideoError(f"{container.name} holds no video frames; it may be damaged or cut short.")
    all_pts, all_dts, keyframe, shown, sizes = zip(*rows, strict=True)

    pts = np.array([stamp or 0 for stamp in all_pts], np.int64)
    seek_to = [shown_at if dts is None else dts for shown_at, dts in zip(pts.tolist(), all_dts, strict=True)]
    keys = np.array(keyframe, bool)
    timed = (
        None not in all_pts
        and _consistent(pts, keys)
        # An empty MPEG-4 picture repeats the one before, or stands for one that shares a packet with another.
        and not (codec == "mpeg4" and min(sizes) < 10)
        # This decoder may hide one frame more than an edit does.
        and not (codec == "qtrle" and not all(shown))
        # B pictures are not shown as they are stored. Timestamps that say so were made up, such as by FFmpeg for AVI,
        # which has none, and for what was copied from there.
        and not (ascending and b_pictures and not keys.all())
    )
    times = None
    decoded = [dts for dts in all_dts if dts is not None]
    if sorted(decoded) == decoded and (None not in all_pts or None not in all_dts):  # otherwise the clock was set anew
        stamps = np.array(all_dts, np.int64) if None in all_pts else pts
        times = stamps[np.array(shown)] * float(stream.time_base or 0)
    # Of a file without any clock the average rate is FFmpeg's default, and the guess what the codec tells.
    told = stream.average_rate, stream.guessed_rate, stream.base_rate
    nominal = [float(rate) for rate in (told if decoded else (told[1], told[0])) if rate]
    fps, seconds = _timing(times, count, nominal)
    missing = 0
    ends = {track: (packet.pts or 0) + (packet.duration or 0) for track, packet in last.items()}
    ends[stream.index] = max(ends[stream.index], int(pts.max()))
    end = max(ticks * float(container.streams[track].time_base or 0) for track, ticks in ends.items())
    if (
        count < enough
        and container.duration
        and (last[stream.index].is_corrupt or end < 0.9 * container.duration / 1e6)
    ):
        # AVI counts as many frames as the stream's rate has room for.
        announced = stream.frames if fps == float(stream.average_rate or 0) else 0
        missing = max(announced, round(container.duration / 1e6 * (fps or 0))) - len(rows)
    return PacketList(
        codec=codec,
        pts=pts,
        seek_to=np.array(seek_to, np.int64),
        keyframe=keys,
        shown=np.array(shown, bool),
        timed=timed,
        fps=fps,
        seconds=seconds,
        missing=max(missing, 0),
        complete=count < enough,
    )


def _timing(
    times: Float64[np.ndarray, "f"] | None, count: int, nominal: list[float]
) -> tuple[float | None, Float64[np.ndarray, " n"]]:
    """Gives the mean frames a second, and `PacketList.seconds`, of frames that are shown at these times, in any order.

    The first of the nominal rates counts that agrees with the frames' number and times; where these are not known, the
    first. None agrees where frames were left out; some are those of a clock (H.264 copied into AVI may tell 600).
    """
    if times is None or times.max() == times.min():
        fps = nominal[0] if nominal else None
        return fps, np.arange(count + 1) / (fps or REFERENCE_FPS)
    ascending = np.sort(times - times.min())
    mean = (count - 1) / float(ascending[-1])
    fps = next((rate for rate in nominal if abs(rate / mean - 1) < 0.05), mean)
    return fps, np.append(ascending, ascending[-1] + 1 / fps)


def _consistent(pts: Int64[np.ndarray, "p"], keyframe: Bool[np.ndarray, "p"]) -> bool:
    """Whether timestamps are unique and decoding can begin at every keyframe, the first packet being one."""
    order = np.argsort(pts, kind="stable")
    return bool(
        keyframe[0]
        and order[0] == 0  # otherwise the file begins with pictures that refer to some that were cut away
        and np.all(np.diff(pts[order]) > 0)
        and np.all(np.diff(pts[keyframe]) > 0)
        and _farthest_move(pts) <= FARTHEST_REORDERING
    )


def _farthest_move(pts: Int64[np.ndarray, "p"]) -> int:
    """How many places the order of timestamps differs from the storage order, at most."""
    return int(np.max(np.abs(np.argsort(pts, kind="stable") - np.arange(len(pts)))))


def demux(container: "InputContainer", *streams: "VideoStream") -> Iterator["Packet"]:
    """Yields the packets of these streams (of all, if none are named) up to where the file can be read.

    Empty packets are left out: to a decoder they mean the end.
    """
    from av.error import FFmpegError

    # Damage may look like further streams, which PyAV looks for in vain at the end (IndexError).
    with contextlib.suppress(FFmpegError, IndexError):
        yield from (packet for packet in container.demux(*streams) if packet.size)
