"""From videos to pixel values: reading, and the preprocessing of a model."""

from .notices import ChangingSizeWarning, DamagedVideoWarning, SeveralStreamsWarning, VideoWarning
from .packets import FileStream
from .processing import VideoProcessor
from .reading import Pictures, Video, VideoInfo, probe, read_by_rule, read_clip, read_frames

__all__ = [
    "ChangingSizeWarning",
    "DamagedVideoWarning",
    "FileStream",
    "Pictures",
    "SeveralStreamsWarning",
    "Video",
    "VideoInfo",
    "VideoProcessor",
    "VideoWarning",
    "probe",
    "read_by_rule",
    "read_clip",
    "read_frames",
]
