"""Opens video files: the stream that is meant, decoded by as many threads as help, and nothing that never ends."""

import contextlib
import io
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import VideoError
from .notices import SeveralStreamsWarning
from .packets import EncodedVideo, FileStream, VideoFile
from .playlists import LONGEST_WAIT, endless, is_playlist, require_end

if TYPE_CHECKING:  # PyAV is imported where a file is opened, so that `import timesformer_jax` stays fast
    from av.container import InputContainer
    from av.video.stream import VideoStream

OpenVideo = tuple["InputContainer", "VideoStream"]

TEXT_CODECS = {"ansi", "bintext", "xbin", "idf"}
"""Decoders that render text files as moving pictures of a terminal, which nobody asks for here."""

_LEAST_SHARED = 1280 * 720
"""Pixels of a picture whose decoding FFmpeg's threads speed up. With smaller ones they cost more than they save."""


class _NamedBytes(io.BytesIO):
    """Bytes that PyAV can read, and that it calls by a name."""

    def __init__(self, video: EncodedVideo) -> None:
        super().__init__(video.data)
        self.name = video.name


@contextlib.contextmanager
def open_video(path: VideoFile, threads: int = 0) -> Generator[OpenVideo]:
    """Opens a video file and one of its video streams.

    Args:
        path: the video file. Of a `FileStream` that stream is opened, else the one that the file marks as its default,
            or that is best by FFmpeg's rule. Cover pictures are none.
        threads: that its decoder may use; 0 is one for small pictures, and what FFmpeg takes for larger ones.

    Raises:
        VideoError: the file can't be opened or holds no such stream, or it is a playlist of a live stream.
    """
    with _open_container(path) as container:
        stream = _choose(path, container)
        context = stream.codec_context
        if threads == 0 and context.width * context.height < _LEAST_SHARED:
            threads = 1
        context.thread_count = threads
        if threads != 1:  # by slices alone, PyAV's default, most files are decoded on one core
            context.thread_type = "AUTO"
        yield container, stream


def _open_container(path: VideoFile) -> "InputContainer":
    import av
    from av.error import ExitError, FFmpegError

    options: dict[str, Any] = {}
    try:
        if isinstance(path, EncodedVideo):
            source, size, head = _NamedBytes(path), len(path.data), path.data[:16]
        else:
            absolute = Path(path).absolute()  # "name:part.mp4" would be taken for a network protocol
            source, size = str(absolute), absolute.stat().st_size
            if not absolute.is_file():  # a pipe would be waited for
                raise VideoError(f"{path} is not a file.")
            with absolute.open("rb") as file:
                head = file.read(16)
        if not size:
            raise VideoError(f"{path} is empty.")
        if is_playlist(head):
            require_end(path)
            options["timeout"] = LONGEST_WAIT
        # From version 19 on PyAV does this by itself, and the argument is gone.
        if int(av.__version__.split(".")[0]) < 19:
            options["metadata_errors"] = "replace"
        container = av.open(source, **options)
    except FileNotFoundError as error:
        raise VideoError(f"{path} does not exist.") from error
    except PermissionError:
        raise  # a directory of pictures may raise it, too
    except ExitError as error:
        raise VideoError(f"{path} is a playlist that leads to nothing within {LONGEST_WAIT:.0f} seconds.") from error
    except (FFmpegError, OSError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path} can't be opened as a video: {reason}.") from error
    if "timeout" in options and container.duration is None:  # FFmpeg knows it of every playlist that has an end
        container.close()
        raise VideoError(endless(path))
    return container


def _choose(path: VideoFile, container: "InputContainer") -> "VideoStream":
    """Chooses the stream that is asked for, that the file marks as its default, or that is best by FFmpeg's rule."""
    from av.stream import Disposition

    streams = _decodable(container)
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(f"{path} holds no video that can be decoded (it holds: {kinds}).")
    if isinstance(path, FileStream):
        if path.number not in streams:
            known = ", ".join(map(str, streams))
            raise VideoError(f"{path} has no video stream {path.number} that can be decoded, but {known}.")
        return streams[path.number]
    marked = [stream for stream in streams.values() if stream.disposition & Disposition.default]
    likely = marked or list(streams.values())
    best = container.streams.best("video") if len(likely) > 1 else None
    return next((stream for stream in likely if stream is best), likely[0])


def _decodable(container: "InputContainer") -> dict[int, "VideoStream"]:
    """The video streams by their numbers, without cover pictures and those that no decoder is known for."""
    from av.stream import Disposition

    return {
        number: stream
        for number, stream in enumerate(container.streams.video)
        # Streams that no decoder is known for have no codec context.
        if (context := getattr(stream, "codec_context", None))
        and context.name not in TEXT_CODECS
        and not stream.disposition & Disposition.attached_pic
    }


def say_which(path: VideoFile, container: "InputContainer", chosen: "VideoStream") -> None:
    """Warns of which stream is read, if there are several and nobody said which is meant."""
    streams = _decodable(container)
    if len(streams) == 1 or isinstance(path, FileStream):
        return
    sizes = ", ".join(
        f"{number} ({stream.codec_context.width}x{stream.codec_context.height})" for number, stream in streams.items()
    )
    number = next(number for number, stream in streams.items() if stream is chosen)
    warnings.warn(
        f"{path} holds {len(streams)} video streams, {sizes}; number {number} is read. --video-stream, or "
        "video.FileStream in Python, chooses another.",
        SeveralStreamsWarning,
        stacklevel=5,
    )
