"""From videos to pixel values: reading, and the preprocessing of a model."""

from .notices import DamagedVideoWarning
from .processing import VideoProcessor
from .reading import Pictures, Video, VideoInfo, probe, read_by_rule, read_clip, read_frames

__all__ = [
    "DamagedVideoWarning",
    "Pictures",
    "Video",
    "VideoInfo",
    "VideoProcessor",
    "probe",
    "read_by_rule",
    "read_clip",
    "read_frames",
]
