"""Decoded frames to upright RGB pictures."""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from ..errors import VideoError

if TYPE_CHECKING:  # PyAV is imported where a file is opened, so that `import timesformer_jax` stays fast
    from av.video.frame import VideoFrame


def to_rgb(frame: "VideoFrame") -> UInt8[np.ndarray, "h w 3"]:
    """Gives an upright RGB picture of a decoded frame at its stored size, whatever the aspect ratio of its pixels."""
    picture = frame.to_ndarray(format="rgb24", **_conversion_options())
    matrix = _display_matrix(frame)
    if matrix is None:
        return picture
    # x' = a x + c y, y' = b x + d y in 16.16 fixed point, y pointing down (FFmpeg, libavutil/display.h).
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    if b and c and not a and not d:
        picture, a, d = picture.swapaxes(0, 1), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _display_matrix(frame: "VideoFrame") -> Any:
    """Gives the matrix that turns a frame upright; None where it has none."""
    try:
        return frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18.1 and 19.0 know not every kind of side data of their FFmpeg (a TIFF's, for example)
        if frame.rotation:
            raise VideoError(f"a frame is turned by {frame.rotation} degrees in a way that PyAV can't tell.") from None
        return None


@functools.cache
def _conversion_options() -> dict[str, Any]:
    """Asks for one thread to convert a frame: to start several for each frame takes longer than all of the work."""
    from av import VideoFrame

    try:
        VideoFrame(16, 16, "yuv420p").to_ndarray(format="rgb24", threads=1)
    except TypeError:  # an older PyAV, which has one thread only
        return {}
    return {"threads": 1}
