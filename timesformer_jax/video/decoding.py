"""Chosen frames of a video file, decoded exactly, and nothing decoded that they do not need.

Frames are decoded from the nearest keyframe before each and recognised by their presentation timestamps. The result is
the one that decoding everything in order would give; where the timestamps can't promise that, or something is damaged,
everything is decoded in order. The terms are those of `packets.py`.
"""

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64, UInt8

from ..errors import VideoError
from .packets import PacketList, VideoFile, demux, list_packets, open_video
from .timing import with_times

if TYPE_CHECKING:  # PyAV is imported where a file is opened, so that `import timesformer_jax` stays fast
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

OpenVideo = tuple["InputContainer", "VideoStream"]
Frames = dict[int, UInt8[np.ndarray, "h w 3"]]
Rule = Callable[[int, float | None], Int64[np.ndarray, "..."]]
"""Gives the indices of the frames to read, from the number of frames and the frames a second of a video."""

SecondReader = Callable[[Callable[[OpenVideo], Frames]], Future[Frames]]
"""Runs a function of a file that is opened once more, in a thread of its own."""

SKIP_UNREFERENCED = {"h264", "mpeg4", "mpeg2video"}
"""Decoders that can leave out the pictures which no other picture is predicted from."""


class DamagedVideoWarning(UserWarning):
    """Frames of a video could not be read. Their nearest neighbours stand in for them."""


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
        packets = list_packets(*video, highest)
        rule = with_times(rule, packets, video[1])
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
        yield from codec.decode(packet)
        if position == stop:
            break
    # What comes after the stretch is not needed to finish its frames.
    yield from codec.decode(None)


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
    """

    stamps: list[int | None] = field(default_factory=list)
    failures: int = 0


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
    # Timed packets hold one frame each. Others may hold two or none, so that fewer frames are no sign of damage.
    lost = max(packets.count - len(stamps), 0) if output.failures or packets.timed else 0
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
        for packet in chain(demux(container, stream), [None]):
            try:
                for frame in stream.codec_context.decode(packet):
                    number = len(output.stamps)
                    picture = to_rgb(frame) if wanted(number) else None
                    output.stamps.append(frame.pts)
                    if picture is not None:
                        yield number, picture
            except FFmpegError:
                output.failures += 1


def to_rgb(frame: "VideoFrame") -> UInt8[np.ndarray, "h w 3"]:
    """Gives an upright RGB picture of a decoded frame at its stored size, whatever the aspect ratio of its pixels."""
    picture = frame.to_ndarray(format="rgb24", **_conversion_options())
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    # x' = a x + c y, y' = b x + d y in 16.16 fixed point, y pointing down (FFmpeg, libavutil/display.h).
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    if b and c and not a and not d:
        picture, a, d = picture.swapaxes(0, 1), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


@functools.cache
def _conversion_options() -> dict[str, Any]:
    """Asks for one thread to convert a frame: to start several for each frame takes longer than all of the work."""
    from av import VideoFrame

    try:
        VideoFrame(16, 16, "yuv420p").to_ndarray(format="rgb24", threads=1)
    except TypeError:  # an older PyAV, which has one thread only
        return {}
    return {"threads": 1}


def nearest_earlier(available: Int64[np.ndarray, "n"], wanted: Int64[np.ndarray, "*m"]) -> Int64[np.ndarray, "*m"]:
    """The position in the ascending `available` of the last value not above each of `wanted`; 0 if all are above."""
    return np.maximum(np.searchsorted(available, wanted, side="right") - 1, 0)


def warn_of_damage(path: object, read: int, total: int) -> None:
    """Warns of how many frames of a video could be read."""
    message = f"{path} is damaged: {read} of {total} frames could be read; the nearest of them stand in for the rest."
    warnings.warn(message, DamagedVideoWarning, stacklevel=5)  # whoever called read_clip
