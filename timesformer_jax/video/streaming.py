"""Overlapping clips of a long video: each frame is decoded once, and only those of the clips in hand are in memory."""

import collections
from collections.abc import Callable, Generator, Iterable, Iterator
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from ..errors import VideoError
from .animations import open_animation
from .decoding import UnexpectedPacketError, seek_chosen
from .in_order import Output, Rule, decode_chosen, find_decoded, warn_of_damage
from .opening import OpenVideo, open_video, say_which
from .packets import PacketList, list_packets
from .reading import Pictures, Prepare, Video, probe, read_frames, require_one_shape
from .sampling import REFERENCE_FPS

Frame = UInt8[np.ndarray, "h w 3"]
Times = Float64[np.ndarray, " n"]
"""Seconds at which each frame of a video is shown, counted from the first; and last, at which the last frame ends."""


def stream_clips(
    video: Video, rule: Rule, prepare: Prepare, times: Callable[[Times], None] = lambda _: None
) -> Generator[UInt8[np.ndarray, "t h w 3"]]:
    """Reads clips in one pass.

    Args:
        video: as in `read_clip`.
        rule: is given the number of frames and the frames a second, and returns the frame indices of the clips,
            (clips, t): ascending in each clip, and from clip to clip. Called again where a file turns out to hold
            another number of frames than its packets promise.
        prepare: is given each frame once, in its own shape.
        times: is told the video's times, before the first clip; and again where `rule` is called again.

    Yields:
        The clips in order: what `read_by_rule` would give.

    Raises:
        VideoError: the video can't be read.

    Warns:
        DamagedVideoWarning: as `read_clip`.
        SeveralStreamsWarning: as `read_clip`.
    """
    if isinstance(video, np.ndarray | Pictures) or Path(video).is_dir():
        info = probe(video)
        times(np.arange(info.frames + 1) / REFERENCE_FPS)
        for row in rule(info.frames, info.fps):
            yield np.stack([prepare(frame) for frame in read_frames(video, row)])
        return
    done = 0
    try:
        if animation := open_animation(video):
            times(animation.seconds)
            rows = rule(animation.count, animation.fps)
            yield from _assemble(video, rows, animation.decode(set(rows.ravel().tolist()).__contains__), prepare)
            return
        with open_video(video) as opened:
            say_which(video, *opened)
            packets = list_packets(*opened)
            times(packets.seconds)
            try:
                if packets.timed and not packets.missing:
                    for clip in _stream_by_seeking(video, opened, packets, rule, prepare):
                        done += 1
                        yield clip
                    return
            except UnexpectedPacketError:
                pass  # something is damaged: on in order, from here
    except PermissionError as error:
        raise VideoError(f"{video} can't be read: permission denied.") from error
    yield from _stream_in_order(video, packets, rule, prepare, times, done)


def _stream_by_seeking(
    video: Video, opened: OpenVideo, packets: PacketList, rule: Rule, prepare: Prepare
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    rows = rule(packets.count, packets.fps)
    yield from _assemble(video, rows, seek_chosen(*opened, packets, np.unique(rows)), prepare)


def _stream_in_order(
    video: str | PathLike[str],
    packets: PacketList,
    rule: Rule,
    prepare: Prepare,
    times: Callable[[Times], None],
    done: int,
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    """Counts the frames first, then yields the clips from number `done` on, as `decode_in_order` would give them."""
    output = Output()
    collections.deque(decode_chosen(video, lambda _: False, output), maxlen=0)
    rows, lost = find_decoded(video, packets, rule, rule(packets.count, packets.fps), output)
    if lost or packets.missing:
        warn_of_damage(video, packets.count - lost, packets.count + packets.missing)
    elif len(output.stamps) != packets.count:
        times(np.linspace(0, packets.seconds[-1], len(output.stamps) + 1))
    rows = rows[done:]
    wanted = set(rows.ravel().tolist())
    yield from _assemble(video, rows, decode_chosen(video, wanted.__contains__, Output()), prepare)


def _assemble(
    video: Video, rows: Int64[np.ndarray, "clips t"], frames: Iterable[tuple[int, Frame]], prepare: Prepare
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    held: dict[int, Frame] = {}
    row, first = 0, None
    for index, frame in frames:
        held[index] = prepare(frame)
        first = held[index] if first is None else first
        require_one_shape([first, held[index]], video)
        while row < len(rows) and rows[row, -1] <= index:
            yield np.stack([held[i] for i in rows[row].tolist()])
            row += 1
            oldest = rows[row, 0] if row < len(rows) else index + 1
            for passed in [i for i in held if i < oldest]:
                del held[passed]
