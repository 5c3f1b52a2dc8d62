"""What the entry of a list is, and what its videos end in."""

from dataclasses import dataclass

from ..videos import Span

VIDEO_SUFFIXES = {
    *(".264", ".265", ".266", ".3g2", ".3gp", ".amv", ".apng", ".asf", ".avc", ".avi", ".dav", ".divx", ".dv", ".f4v"),
    *(".flv", ".gif", ".gxf", ".h261", ".h263", ".h264", ".h265", ".h266", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts"),
    *(".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv"),
    *(".mts", ".mxf", ".nut", ".obu", ".ogg", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".swf", ".ts", ".vob", ".vvc"),
    *(".webm", ".wmv", ".wtv", ".y4m"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A video in a list.

    Attributes:
        path: the path as listed.
        label: the class name or number as listed.
        where: the place in the list, for messages.
        span: the part of the video that is meant; None if it is the whole.
    """

    path: str
    label: str
    where: str
    span: Span | None = None
