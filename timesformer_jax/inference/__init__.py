"""Videos to labels: `VideoClassifier`, and what it answers."""

from .classifier import VideoClassifier
from .predictions import Answer, LongAnswer, Prediction, WindowAnswer, best_predictions

__all__ = ["Answer", "LongAnswer", "Prediction", "VideoClassifier", "WindowAnswer", "best_predictions"]
