"""TimeSformer for JAX and Flax, equal to the PyTorch reference."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import TimesformerConfig
    from .inference.classifier import VideoClassifier
    from .model.modeling import TimesformerForVideoClassification, TimesformerModel
    from .video.notices import DamagedVideoWarning
    from .video.processing import VideoProcessor
    from .video.reading import probe, read_clip, read_frames

_MODULES = {
    "DamagedVideoWarning": "video.notices",
    "TimesformerConfig": "config",
    "TimesformerForVideoClassification": "model.modeling",
    "TimesformerModel": "model.modeling",
    "VideoClassifier": "inference.classifier",
    "VideoProcessor": "video.processing",
    "probe": "video.reading",
    "read_clip": "video.reading",
    "read_frames": "video.reading",
}
"""Where each public name is. It is imported when it is first asked for, so that `--help` need not wait for JAX."""

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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
