"""Parts of videos: which frames an entry of a list means that names a start and an end."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from ..errors import VideoError
from ..video.sampling import REFERENCE_FPS

_TOLERANCE = 1e-3
"""Seconds by which a frame's time may lie before a limit and still count as on it: Matroska rounds to so much."""

_UNITS = (None, "seconds", "frames")


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a video that an entry of a list names.

    Attributes:
        start: where it begins, in seconds, or the number of the first frame (from 0) where `unit` is "frames".
        end: where it ends (not included); None is the video's end.
        unit: what both count.
    """

    start: float
    end: float | None = None
    unit: Literal["seconds", "frames"] = "seconds"


@dataclass(frozen=True, eq=False)
class Spans:
    """The spans of many videos, by number; arrays, as tuples would take ten times the memory in each worker process.

    Attributes:
        starts: where each begins.
        ends: where each ends; infinite at the video's end.
        units: what both count, as a place in (None, "seconds", "frames"); None is a whole video.
    """

    starts: Float[np.ndarray, " n"] = field(repr=False)
    ends: Float[np.ndarray, " n"] = field(repr=False)
    units: UInt8[np.ndarray, " n"] = field(repr=False)

    @classmethod
    def of(cls, spans: Iterable[Span | None]) -> "Spans | None":
        """Keeps the spans of all videos; None where no video has one."""
        whole = Span(0, None)
        rows = [
            (given.start, math.inf if given.end is None else given.end, _UNITS.index(span and given.unit))
            for span in spans
            for given in [span or whole]
        ]
        if not any(unit for _, _, unit in rows):
            return None
        starts, ends, units = zip(*rows, strict=True)
        return cls(np.array(starts, np.float64), np.array(ends, np.float64), np.array(units, np.uint8))

    def __getitem__(self, index: int) -> Span | None:
        unit = _UNITS[self.units[index]]
        if unit is None:
            return None
        end = float(self.ends[index])
        return Span(float(self.starts[index]), None if math.isinf(end) else end, unit)


def to_json(span: Span | None) -> list[Any] | None:
    """A span as JSON keeps it."""
    return None if span is None else [span.start, span.end, span.unit]


def from_json(value: list[Any] | None) -> Span | None:
    """A span as `to_json` has written it.

    Raises:
        ValueError: it is none, as TypeError is.
    """
    if value is None:
        return None
    start, end, unit = value
    if unit not in ("seconds", "frames"):
        raise ValueError(f"{unit!r} is no unit")
    return Span(float(start), None if end is None else float(end), unit)


def fragment(span: Span) -> str:
    """How names show a span, such as t=2.5,10 (seconds, as in a W3C media fragment) or frames=75,300."""
    end = "" if span.end is None else f",{span.end:.12g}"
    return f"{'t' if span.unit == 'seconds' else 'frames'}={span.start:.12g}{end}"


def frames_between(
    span: Span, total: int, fps: float | None, times: Float[np.ndarray, " f"] | None = None
) -> tuple[int, int]:
    """The first frame of a span, and the frame after its last.

    Frames in a span of seconds are those whose time is not before its start, and before its end. A span that lies
    between two frames is the one frame that is seen then. What lies beyond the end of the video is left out.

    Args:
        span: the span.
        total: frames in the video.
        fps: frames a second; pictures, for which it is None, count as 30 a second.
        times: the time of each frame in seconds after the first, ascending; index / fps where it is None.

    Raises:
        VideoError: the video ends before the span begins.
    """
    if span.unit == "frames":
        first, end = int(span.start), total if span.end is None else min(int(span.end), total)
        if first >= total:
            raise VideoError(f"The part that begins at frame {first} lies beyond the end of the {total} frames.")
        return first, max(end, first + 1)
    rate = fps or REFERENCE_FPS
    times = np.arange(total) / rate if times is None else times
    limit = math.inf if span.end is None else span.end
    first, end = np.searchsorted(times, [span.start - _TOLERANCE, limit - _TOLERANCE]).tolist()
    if first == total and span.start >= times[-1] + 1 / rate:
        length = times[-1] + 1 / rate
        raise VideoError(f"The part that begins at {span.start:g} s lies beyond the end of the {length:.3g} s.")
    if end <= first:
        return max(first - 1, 0), max(first, 1)
    return first, end
