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
    """Refuses a playlist of a live stream, and one whose parts are not beside it on this machine.

    Raises:
        VideoError: it is one of these.
    """
    folder = None if isinstance(path, EncodedVideo) else Path(path).parent
    text = (path.data if isinstance(path, EncodedVideo) else Path(path).read_bytes()).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines()]
    parts = [line for line in lines if line and not line.startswith("#")]
    parts += re.findall(r'^#EXT-X-MEDIA:.*\bURI="([^"]+)"', text, re.MULTILINE)
    if re.search(r"<MPD[^>]*\btype\s*=\s*[\"']dynamic", text):
        raise VideoError(endless(path))
    if not text.lstrip("\ufeff \r\n").startswith("#EXTM3U"):
        return
    leads_to_others = any(line.startswith("#EXT-X-STREAM-INF") for line in lines)
    if not leads_to_others and "#EXT-X-ENDLIST" not in lines:
        raise VideoError(endless(path))
    if folder is None or any(urlsplit(part).scheme not in ("", "file") for part in parts):
        raise VideoError(
            f"{path} is a playlist whose parts are not on this machine; download them, or the whole video."
        )
    for other in (folder / part for part in parts if leads_to_others):
        if other.is_file() and other.name != Path(str(path)).name:
            require_end(other)


def endless(path: VideoFile) -> str:
    """Says what is wrong with a playlist of a live stream."""
    return f"{path} is a playlist of a live stream, which has no end; record a part of it to a file and give that."
