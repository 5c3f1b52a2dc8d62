"""Playlists: small text files that name the parts of a video. Those of live streams never end, and are refused."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import VideoError
from .packets import EncodedVideo, VideoFile

LONGEST_WAIT = 30.0
"""Seconds that the parts of a playlist, which may be on the network, are waited for."""

_BEGINNINGS = (b"#EXTM3U", b"<?xml", b"<MPD", b"v=0")
"""Of HLS, DASH (twice) and SDP."""


def is_playlist(head: bytes) -> bool:
    """Whether a file that begins with these bytes may be a playlist."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_BEGINNINGS)


def require_end(path: VideoFile) -> None:
    """Refuses a playlist of a live stream, and one in memory whose parts are elsewhere.

    Playlists on the network, which one on this machine may name, are not looked at: FFmpeg tells them later.

    Raises:
        VideoError: it is one of these.
    """
    folder = None if isinstance(path, EncodedVideo) else Path(path).parent
    text = (path.data if isinstance(path, EncodedVideo) else Path(path).read_bytes()).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines()]
    parts = [line for line in lines if line and not line.startswith("#")]
    if re.search(r"<MPD[^>]*\btype\s*=\s*[\"']dynamic", text):
        raise VideoError(endless(path))
    if not text.lstrip("\ufeff \r\n").startswith("#EXTM3U"):
        return
    if folder is None and not all(urlsplit(part).scheme for part in parts):
        raise VideoError(f"{path} is a playlist whose parts are other files: give the video itself.")
    if any(line.startswith("#EXT-X-STREAM-INF") for line in lines):
        for variant in [] if folder is None else [folder / part for part in parts]:
            if variant.is_file() and variant.name != Path(str(path)).name:
                require_end(variant)
    elif "#EXT-X-ENDLIST" not in lines:
        raise VideoError(endless(path))


def endless(path: VideoFile) -> str:
    """Says what is wrong with a playlist of a live stream."""
    return f"{path} is a playlist of a live stream, which has no end; record a part of it to a file and give that."
