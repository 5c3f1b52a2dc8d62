"""Videos to pixel values: read_clip and its relatives, and the preprocessing of a model."""

from .decoding import DamagedVideoWarning
from .processing import VideoProcessor
from .reading import Video, probe, read_by_rule, read_clip, read_frames

__all__ = [
    "DamagedVideoWarning",
    "Video",
    "VideoProcessor",
    "probe",
    "read_by_rule",
    "read_clip",
    "read_frames",
]
