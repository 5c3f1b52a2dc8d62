"""The published models' preprocessing, at any image size and with the settings that a weights file tells."""

from pathlib import Path
from typing import Any

from ..config import TimesformerConfig
from ..errors import ConfigError
from ..video.processing import VideoProcessor


def published_processor(config: TimesformerConfig, **settings: Any) -> VideoProcessor:
    """The published models' preprocessing at a config's image size, but for some settings."""
    height, width = config.image_shape
    return VideoProcessor(size=min(height, width), crop_size=(height, width), **settings)


def processor_of(where: Path, config: TimesformerConfig, **settings: Any) -> VideoProcessor | None:
    """The preprocessing that a file tells; None for a model that does not take three channels, which has none.

    Raises:
        ConfigError: the settings can't work; the message names the file.
    """
    if config.num_channels != 3:
        return None
    try:
        return published_processor(config, **settings)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
