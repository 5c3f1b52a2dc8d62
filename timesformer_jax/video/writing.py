"""Frames to a video file."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


def write_video(path: Path, frames: UInt8[np.ndarray, "t h w 3"], fps: int = 30) -> None:
    """Writes H.264 in mp4 (or what else the path's suffix says)."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
