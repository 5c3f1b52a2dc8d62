"""The settings of a run's data, beside the recipe that holds them; they are defined in data/config.py."""

from ..data.config import Augmentation, DataConfig

__all__ = ["Augmentation", "DataConfig"]
