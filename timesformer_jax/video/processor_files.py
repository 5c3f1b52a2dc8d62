"""The layouts in which Transformers keeps a processor's settings.

4.x writes preprocessor_config.json (VideoMAEImageProcessor, once VideoMAEFeatureExtractor); 5.x may also write
video_preprocessor_config.json (TimesformerVideoProcessor).
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, cast

from ..errors import ConfigError

IMAGE_FILE = "preprocessor_config.json"
VIDEO_FILE = "video_preprocessor_config.json"

TYPE_KEYS = ("image_processor_type", "video_processor_type", "feature_extractor_type")
"""The keys under which a file names the class that wrote it."""

DEFAULT_MEAN_STD = {
    "VideoMAEImageProcessor": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "VideoMAEFeatureExtractor": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "VideoMAEVideoProcessor": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "TimesformerVideoProcessor": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""The classes whose files can be read, with the mean and standard deviation that each takes where its file has none.

All their other defaults are equal, and those of `VideoProcessor`.
"""


def read_settings(values: Mapping[str, Any], known: Collection[str], *, is_video_file: bool) -> dict[str, Any]:
    """Turns the contents of a processor file into the arguments of `VideoProcessor`.

    Args:
        values: the JSON object.
        known: the names of the settings; other keys are kept under "other".
        is_video_file: tells the class that wrote the file, where the file doesn't.

    Raises:
        ConfigError: for a class that isn't known, or a setting that would change pixels and isn't known.
    """
    default_type = "TimesformerVideoProcessor" if is_video_file else "VideoMAEImageProcessor"
    named = next((values[key] for key in TYPE_KEYS if key in values), default_type)
    kind = str(named).removesuffix("Fast").removesuffix("Pil")
    if kind not in DEFAULT_MEAN_STD:
        raise ConfigError(f"{named} is not supported; the classes that are: {', '.join(DEFAULT_MEAN_STD)}.")
    mean, std = DEFAULT_MEAN_STD[kind]
    settings: dict[str, Any] = {"image_mean": mean, "image_std": std}
    others: dict[str, str] = {}
    for key, value in values.items():
        if key not in known and key not in TYPE_KEYS:
            if value and _changes_pixels(key, values):
                raise ConfigError(f"{key} is {value!r}: it would change pixels and is not supported.")
            others[key] = json.dumps(value)
        elif isinstance(value, list):
            settings[key] = tuple(cast(list[Any], value))
        elif isinstance(value, dict):
            settings[key] = _edges(key, cast(dict[str, Any], value))
        elif key in known and (value is not None or key.startswith("do_")):  # null: the default
            settings[key] = value
    return settings | {"other": tuple(sorted(others.items()))}


def _changes_pixels(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a switch that isn't known would change pixels when it is on."""
    if key == "default_to_square":
        return isinstance(values.get("size"), int)
    # Frames are RGB already, and were sampled before they come here.
    return key == "offset" or (key.startswith("do_") and key not in ("do_convert_rgb", "do_sample_frames"))


def _edges(key: str, size: dict[str, Any]) -> Any:
    """Gives `{"shortest_edge": n}` as n and `{"height": h, "width": w}` as (h, w)."""
    if size.keys() == {"height", "width"}:
        return size["height"], size["width"]
    if size.keys() == {"shortest_edge"} and key == "size":
        return size["shortest_edge"]
    wanted = "height and width, or shortest_edge" if key == "size" else "height and width"
    raise ConfigError(f"{key} is {size!r}: it must have {wanted}, and nothing else.")
