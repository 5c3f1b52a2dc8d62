"""Frames to a video file."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


def write_video(
    path: Path,
    frames: UInt8[np.ndarray, "t h w 3"],
    fps: int = 30,
    *,
    options: Mapping[str, str] | None = None,
    threads: int = 0,
) -> None:
    """Writes H.264 in mp4 (or what else the path's suffix says).

    Args:
        path: the file to write.
        frames: of even height and width.
        fps: frames a second.
        options: of the encoder x264.
        threads: that encode; 0 is as many as help.
    """
    import av
    from av.video.reformatter import VideoReformatter

    to_yuv = VideoReformatter()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=dict(options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = threads
        for number, frame in enumerate(frames):
            picture = to_yuv.reformat(av.VideoFrame.from_ndarray(frame, format="rgb24"), format="yuv420p")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
