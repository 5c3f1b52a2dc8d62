"""TimeSformer for JAX and Flax, equal to the PyTorch reference."""

from .config import TimesformerConfig
from .decoding import DamagedVideoWarning
from .inference import VideoClassifier
from .modeling import TimesformerForVideoClassification, TimesformerModel
from .processing import VideoProcessor
from .video import probe, read_clip, read_frames

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
