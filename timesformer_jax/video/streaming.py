"""Overlapping clips of a long video: each frame is decoded once, and only those of the clips in hand are in memory."""

import collections
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from ..errors import VideoError
from .decoding import Output, Rule, UnexpectedPacketError, decode_chosen, find_decoded, seek_chosen, warn_of_damage
from .packets import PacketList, list_packets, open_video
from .reading import Video, probe, read_frames

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

Frame = UInt8[np.ndarray, "h w 3"]
Prepare = Callable[[Frame], Frame]
"""Changes each frame before it is kept, such as by resizing."""


def stream_clips(video: Video, rule: Rule, prepare: Prepare) -> Generator[UInt8[np.ndarray, "t h w 3"]]:
    """Reads clips in one pass.

    Args:
        video: as in `read_clip`.
        rule: is given the number of frames and the frames a second, and returns the frame indices of the clips,
            (clips, t): ascending in each clip, and from clip to clip. Called again where a file turns out to hold
            another number of frames than its packets promise.
        prepare: is given each frame once.

    Yields:
        The clips in order: what `read_clip` would give, prepared.

    Raises:
        VideoError: the video can't be read.

    Warns:
        DamagedVideoWarning: as `read_clip`.
    """
    if isinstance(video, np.ndarray) or Path(video).is_dir():
        info = probe(video)
        for row in rule(info.frames, info.fps):
            yield np.stack([prepare(frame) for frame in read_frames(video, row)])
        return
    done = 0
    try:
        with open_video(video) as (container, stream):
            packets = list_packets(container, stream)
            try:
                if packets.timed and not packets.missing:
                    for clip in _stream_by_seeking(container, stream, packets, rule, prepare):
                        done += 1
                        yield clip
                    return
            except UnexpectedPacketError:
                pass  # something is damaged: on in order, from here
    except PermissionError as error:
        raise VideoError(f"{video} can't be read: permission denied.") from error
    yield from _stream_in_order(Path(video), packets, rule, prepare, done)


def _stream_by_seeking(
    container: "InputContainer", stream: "VideoStream", packets: PacketList, rule: Rule, prepare: Prepare
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    rows = rule(packets.count, packets.fps)
    frames = seek_chosen(container, stream, packets, np.unique(rows))
    yield from _assemble(rows, frames, prepare)


def _stream_in_order(
    path: Path, packets: PacketList, rule: Rule, prepare: Prepare, done: int
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    """Counts the frames first, then yields the clips from number `done` on, as `decode_in_order` would give them."""
    output = Output()
    collections.deque(decode_chosen(path, lambda _: False, output), maxlen=0)
    rows, lost = find_decoded(path, packets, rule, rule(packets.count, packets.fps), output)
    if lost or packets.missing:
        warn_of_damage(path, packets.count - lost, packets.count + packets.missing)
    rows = rows[done:]
    wanted = set(rows.ravel().tolist())
    yield from _assemble(rows, decode_chosen(path, wanted.__contains__, Output()), prepare)


def _assemble(
    rows: Int64[np.ndarray, "clips t"], frames: Iterable[tuple[int, Frame]], prepare: Prepare
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    held: dict[int, Frame] = {}
    row, shape = 0, None
    for index, frame in frames:
        if shape is None:
            shape = frame.shape
        elif frame.shape != shape:  # a stream may change its picture's size on the way
            frame = np.asarray(Image.fromarray(frame).resize((shape[1], shape[0])))
        held[index] = prepare(frame)
        while row < len(rows) and rows[row, -1] <= index:
            yield np.stack([held[i] for i in rows[row].tolist()])
            row += 1
            oldest = rows[row, 0] if row < len(rows) else index + 1
            for passed in [i for i in held if i < oldest]:
                del held[passed]
