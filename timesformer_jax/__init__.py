"""TimeSformer for JAX and Flax, equal to the PyTorch reference."""

from .config import TimesformerConfig
from .inference.classifier import VideoClassifier
from .model.modeling import TimesformerForVideoClassification, TimesformerModel
from .video.notices import DamagedVideoWarning
from .video.processing import VideoProcessor
from .video.reading import probe, read_clip, read_frames

__all__ = [
    "DamagedVideoWarning",
    "TimesformerConfig",
    "TimesformerForVideoClassification",
    "TimesformerModel",
    "VideoClassifier",
    "VideoProcessor",
    "probe",
    "read_clip",
    "read_frames",
]
