"""The packets of a video file, listed without decoding any.

This gives the exact number of frames, whatever the header says, and tells where decoding can begin.

Terms as in FFmpeg: a *packet* is one compressed picture; packets are stored in the order in which they are decoded,
and a packet's *position* counts in that order. *pts* is the presentation timestamp. A frame's *index* counts in
presentation order.
"""

import contextlib
import io
import math
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int64

from ..errors import VideoError

if TYPE_CHECKING:  # PyAV is imported where a file is opened, so that `import timesformer_jax` stays fast
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

TEXT_CODECS = {"ansi", "bintext", "xbin", "idf"}
"""Decoders that render text files as moving pictures of a terminal, which nobody asks for here."""

_LEAST_SHARED = 1280 * 720
"""Pixels of a picture whose decoding FFmpeg's threads speed up. With smaller ones they cost more than they save."""

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


VideoFile = str | os.PathLike[str] | EncodedVideo


class _NamedBytes(io.BytesIO):
    """Bytes that PyAV can read, and that it calls by a name."""

    def __init__(self, video: EncodedVideo) -> None:
        super().__init__(video.data)
        self.name = video.name


@contextlib.contextmanager
def open_video(path: VideoFile, threads: int = 0) -> Generator[tuple["InputContainer", "VideoStream"]]:
    """Opens a video file and chooses its first video stream that isn't a cover picture.

    Args:
        path: the video file.
        threads: that its decoder may use; 0 is one for small pictures, and what FFmpeg takes for larger ones.
    """
    import av
    from av.error import FFmpegError
    from av.stream import Disposition

    try:
        if isinstance(path, EncodedVideo):
            source, size = _NamedBytes(path), len(path.data)
        else:
            absolute = Path(path).absolute()  # "name:part.mp4" would be taken for a network protocol
            source, size = str(absolute), absolute.stat().st_size
            if not absolute.is_file():  # a pipe would be waited for
                raise VideoError(f"{path} is not a file.")
        if not size:
            raise VideoError(f"{path} is empty.")
        # From version 19 on PyAV does this by itself, and the argument is gone.
        lenient: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
        container = av.open(source, **lenient)
    except FileNotFoundError as error:
        raise VideoError(f"{path} does not exist.") from error
    except PermissionError:
        raise  # a directory of pictures may raise it, too
    except (FFmpegError, OSError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path} can't be opened as a video: {reason}.") from error
    with container:
        for stream in container.streams.video:
            # Streams that no decoder is known for have no codec context.
            context = getattr(stream, "codec_context", None)
            if context and context.name not in TEXT_CODECS and not stream.disposition & Disposition.attached_pic:
                if threads == 0 and context.width * context.height < _LEAST_SHARED:
                    threads = 1
                context.thread_count = threads
                if threads != 1:  # by slices alone, PyAV's default, most files are decoded on one core
                    context.thread_type = "AUTO"
                yield container, stream
                return
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(f"{path} holds no video that can be decoded (it holds: {kinds}).")


@dataclass(frozen=True, eq=False)
class PacketList:
    """The packets of one video stream in storage order.

    Attributes:
        pts: presentation timestamps, in the stream's time base.
        seek_to: timestamps to seek to so as to arrive at a packet or before it.
        keyframe: packets from which decoding can begin.
        shown: packets that give a frame; others only help to decode frames, or lie before the clip's cut.
        timed: whether the timestamps identify the frames and order them.
        fps: mean frames a second, None if unknown.
        missing: about how many frames the header announces beyond the end of the file.
        complete: whether the file was read to its end.
    """

    pts: Int64[np.ndarray, "p"]
    seek_to: Int64[np.ndarray, "p"]
    keyframe: Bool[np.ndarray, "p"]
    shown: Bool[np.ndarray, "p"]
    timed: bool
    fps: float | None
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
    count, enough = 0, math.inf if highest is None else highest + 1 + FARTHEST_REORDERING
    for packet in demux(container):
        last[packet.stream_index] = packet
        if packet.stream_index == stream.index:
            # VP8 keeps invisible reference pictures in packets of their own: bit 4 of the first byte says "show".
            shown = not packet.is_discard and (codec != "vp8" or bool(memoryview(packet)[0] & 16))
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
        # AVI has no presentation timestamps; FFmpeg makes them up, not always with regard to reordering.
        and not ("avi" in container.format.name and reorders and bool(np.all(np.diff(pts) > 0)))
    )
    fps = float(stream.average_rate or stream.guessed_rate or 0) or None
    length = float((pts.max() - pts.min()) * (stream.time_base or 0))
    if timed and length > 0 and not (fps and abs(fps * length / (len(rows) - 1) - 1) < 0.05):
        fps = (len(rows) - 1) / length  # the header gives a nominal rate, but frames were left out
    missing = 0
    ends = {track: (packet.pts or 0) + (packet.duration or 0) for track, packet in last.items()}
    ends[stream.index] = max(ends[stream.index], int(pts.max()))
    end = max(ticks * float(container.streams[track].time_base or 0) for track, ticks in ends.items())
    if (
        count < enough
        and container.duration
        and (last[stream.index].is_corrupt or end < 0.9 * container.duration / 1e6)
    ):
        missing = max(stream.frames, round(container.duration / 1e6 * (fps or 0))) - len(rows)
    return PacketList(
        pts=pts,
        seek_to=np.array(seek_to, np.int64),
        keyframe=keys,
        shown=np.array(shown, bool),
        timed=timed,
        fps=fps,
        missing=max(missing, 0),
        complete=count < enough,
    )


def _consistent(pts: Int64[np.ndarray, "p"], keyframe: Bool[np.ndarray, "p"]) -> bool:
    """Whether timestamps are unique and decoding can begin at every keyframe, the first packet being one."""
    order = np.argsort(pts, kind="stable")
    return bool(
        keyframe[0]
        and order[0] == 0  # otherwise the file begins with pictures that refer to some that were cut away
        and np.all(np.diff(pts[order]) > 0)
        and np.all(np.diff(pts[keyframe]) > 0)
        and np.max(np.abs(order - np.arange(len(pts)))) <= FARTHEST_REORDERING
    )


def demux(container: "InputContainer", *streams: "VideoStream") -> Iterator["Packet"]:
    """Yields the packets of these streams (of all, if none are named) up to where the file can be read.

    Empty packets are left out: to a decoder they mean the end.
    """
    from av.error import FFmpegError

    # Damage may look like further streams, which PyAV looks for in vain at the end (IndexError).
    with contextlib.suppress(FFmpegError, IndexError):
        yield from (packet for packet in container.demux(*streams) if packet.size)
