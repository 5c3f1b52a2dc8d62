"""Chosen frames of a video file, decoded exactly, and nothing decoded that they do not need.

Frames are decoded from the nearest keyframe before each and recognised by their presentation timestamps. The result is
the one that decoding everything in order would give; where the timestamps can't promise that, or something is damaged,
everything is decoded in order. The terms are those of `packets.py`.
"""

import contextlib
import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt8

from .in_order import Frames, Rule, decode, decode_in_order, warn_of_damage
from .opening import OpenVideo, open_video, say_which
from .packets import PacketList, VideoFile, demux, list_packets
from .rgb import to_rgb
from .timing import with_times

if TYPE_CHECKING:  # PyAV is imported where a file is opened, so that `import timesformer_jax` stays fast
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SecondReader = Callable[[Callable[[OpenVideo], Frames]], Future[Frames]]
"""Runs a function of a file that is opened once more, in a thread of its own."""

SKIP_UNREFERENCED = {"h264", "mpeg4", "mpeg2video"}
"""Decoders that can leave out the pictures which no other picture is predicted from."""


def read_file(
    path: VideoFile, rule: Rule, highest: int | None = None, threads: int = 0
) -> tuple[Frames, Int64[np.ndarray, "..."]]:
    """Decodes the frames of a video file that `rule` chooses.

    Args:
        path: the video file.
        rule: is given the number of frames and the frames a second, and returns frame indices of any shape, each in
            [0, frames). In a file whose packets and frames don't match it is called again with the true number.
        highest: the highest index that `rule` may return, if that is known. The file is then not read further than it
            takes, and `rule` may be given a smaller number of frames.
        threads: that decode; 0 is as many as help.

    Returns:
        The frames as upright RGB pictures, and for each index that was asked for the key of its frame among them.

    Raises:
        VideoError: if the file can't be opened, holds no video or none of its frames can be decoded.
    """
    with open_video(path, threads) as video, _second_reader(path, threads) as second:
        say_which(path, *video)
        packets = list_packets(*video, highest)
        rule = with_times(rule, packets)
        indices = rule(packets.count, packets.fps)
        frames = decode_by_seeking(video, packets, np.unique(indices), second) if packets.timed else None
    if frames is None and not packets.complete:
        return read_file(path, rule, threads=threads)
    lost = 0
    if frames is None:
        frames, indices, lost = decode_in_order(path, packets, rule, threads)
    if lost or packets.missing:
        warn_of_damage(path, packets.count - lost, packets.count + packets.missing)
    return frames, indices


def decode_by_seeking(
    video: OpenVideo, packets: PacketList, wanted: Int64[np.ndarray, "n"], second: SecondReader | None = None
) -> Frames | None:
    """Decodes only the stretches of a file that the wanted frames need.

    Args:
        video: the open file and its stream.
        packets: what `list_packets` found in it, with `timed` true.
        wanted: ascending frame indices.
        second: decodes about half of them at the same time, if there are two stretches or more.

    Returns:
        The frames by index; None if anything differed from what the packets let expect.
    """
    mine = len(wanted) if second is None else _half(packets, wanted)
    try:
        if second is None or mine == len(wanted):
            return dict(seek_chosen(*video, packets, wanted))
        others = second(lambda again: dict(seek_chosen(*again, packets, wanted[mine:])))
        return dict(seek_chosen(*video, packets, wanted[:mine])) | others.result()
    except UnexpectedPacketError:
        return None


@contextlib.contextmanager
def _second_reader(path: VideoFile, threads: int) -> Generator[SecondReader | None]:
    """Gives a thread that opens the file once more at once; None if only one thread may decode."""
    if threads == 1:
        yield None
        return
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        opened = pool.submit(stack.enter_context, open_video(path, threads))
        yield lambda task: pool.submit(lambda: task(opened.result()))


def _half(packets: PacketList, wanted: Int64[np.ndarray, "n"]) -> int:
    """How many of the wanted frames lie before the end of a stretch where about half of the packets are decoded."""
    positions = packets.order[wanted]
    stretches = np.array(_stretches(packets.start_for(positions).tolist(), positions.tolist()))
    decoded = np.cumsum(stretches[:, 1] - stretches[:, 0] + 1)
    end = stretches[np.argmin(np.abs(2 * decoded - decoded[-1])), 1]
    return int((positions <= end).sum())


def seek_chosen(
    container: "InputContainer", stream: "VideoStream", packets: PacketList, wanted: Int64[np.ndarray, "n"]
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """Yields what `decode_by_seeking` gives, frame by frame, in ascending order.

    Raises:
        UnexpectedPacketError: something differs from what the packets let expect; what came before is right.
    """
    from av.error import FFmpegError

    positions = packets.order[wanted]
    index_at = dict(zip(packets.pts[positions].tolist(), wanted.tolist(), strict=True))
    needed = set(positions.tolist())
    due = iter(wanted.tolist())
    for start, stop in _stretches(packets.start_for(positions).tolist(), positions.tolist()):
        last = -math.inf
        try:
            container.seek(int(packets.seek_to[start]), stream=stream)
            for frame in _decode_stretch(container, stream, packets.pts, start, stop, needed):
                if frame.pts is None or frame.pts <= last:
                    raise UnexpectedPacketError
                last = frame.pts
                if last in index_at:
                    if index_at[last] != next(due, None):
                        raise UnexpectedPacketError
                    yield index_at[last], to_rgb(frame)
        except FFmpegError as error:
            raise UnexpectedPacketError from error
    if next(due, None) is not None:
        raise UnexpectedPacketError


class UnexpectedPacketError(Exception):
    """Seeking led past the packet that was sought, to other packets than were listed, or not to all frames."""


def _stretches(starts: list[int], positions: list[int]) -> list[tuple[int, int]]:
    """Joins (keyframe, frame) positions into stretches to be decoded in one go: their first and last positions."""
    stretches: list[tuple[int, int]] = []
    for start, stop in zip(starts, positions, strict=True):
        if stretches and start <= stretches[-1][1] + 1:
            earlier, later = stretches.pop()
            start, stop = min(start, earlier), max(stop, later)
        stretches.append((start, stop))
    return stretches


def _decode_stretch(
    container: "InputContainer",
    stream: "VideoStream",
    pts: Int64[np.ndarray, "p"],
    start: int,
    stop: int,
    needed: set[int],
) -> Iterator["VideoFrame"]:
    """Decodes the packets from position `start` to `stop` after a seek to `start` or before it."""
    codec = stream.codec_context
    expected = {int(stamp): start + i for i, stamp in enumerate(pts[start : stop + 1])}
    position = start - 1
    for packet in demux(container, stream):
        found = -1 if packet.pts is None else expected.get(packet.pts, -1)
        if found < 0 and position < start:
            continue  # the seek led to an earlier keyframe
        position += 1
        if found != position:
            raise UnexpectedPacketError
        if codec.name in SKIP_UNREFERENCED:
            codec.skip_frame = "DEFAULT" if position in needed else "NONREF"
        yield from decode(codec, packet)
        if position == stop:
            break
    # What comes after the stretch is not needed to finish its frames.
    yield from decode(codec, None)
