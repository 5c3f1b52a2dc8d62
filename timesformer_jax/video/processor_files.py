"""The files in which Transformers keeps a processor's settings.

4.x writes preprocessor_config.json (VideoMAEImageProcessor, once VideoMAEFeatureExtractor); 5.x may also write
video_preprocessor_config.json (TimesformerVideoProcessor), and both in one processor_config.json.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from ..errors import ConfigError
from ..support.files import read_json

Processor = TypeVar("Processor")

IMAGE_FILE = "preprocessor_config.json"
VIDEO_FILE = "video_preprocessor_config.json"
NESTED_FILE = "processor_config.json"
PROCESSOR_FILES = (IMAGE_FILE, VIDEO_FILE, NESTED_FILE)
"""The first that is there counts."""

SECTIONS = ("image_processor", "video_processor")
"""The keys of `NESTED_FILE` under which processors are; the first that is there counts."""

TYPE_KEYS = ("image_processor_type", "video_processor_type", "feature_extractor_type")
"""The keys under which a file names the class that wrote it."""

_HALF = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_SQUARE = {"size": (224, 224), "do_center_crop": False, **_HALF}
DEFAULTS: dict[str, dict[str, Any]] = {
    "VideoMAEImageProcessor": _HALF,
    "VideoMAEFeatureExtractor": _HALF,
    "VideoMAEVideoProcessor": _HALF,
    "TimesformerVideoProcessor": {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)},
    "ViTImageProcessor": _SQUARE,
    "ViTFeatureExtractor": _SQUARE,
    "VivitImageProcessor": {"size": 256, "rescale_factor": 1 / 127.5, "offset": True, **_HALF},
}
"""The classes whose files can be read, with what each takes where its file says nothing.

All their other defaults are equal, and those of `VideoProcessor`.
"""


def sections(values: Mapping[str, Any], source: str) -> dict[str, Mapping[str, Any]]:
    """The settings of each processor in a file, by the name that messages call it.

    Raises:
        ConfigError: there are none.
    """
    nested = {f"{source} ({key})": values[key] for key in SECTIONS if isinstance(values.get(key), dict)}
    if nested:
        return nested
    if Path(source).name == NESTED_FILE and not values.keys() & {*TYPE_KEYS, "size", "image_mean"}:
        raise ConfigError(f"{source}: it holds no settings of pixels, neither {SECTIONS[0]} nor {SECTIONS[1]}.")
    return {source: values}


def find_processor_files(directory: Path) -> list[Path]:
    """The files with a processor's settings in a directory, that which counts first.

    A processor_config.json as Transformers 4.x writes it, without settings of pixels, is none.
    """
    found = [file for name in PROCESSOR_FILES if (file := directory / name).is_file()]
    return [file for file in found if file.name != NESTED_FILE or not _is_without_settings(file)]


def read_processors(
    path: Path, parse: Callable[[Mapping[str, Any], str], Processor]
) -> tuple[dict[str, Processor], list[str]]:
    """Reads all processors of a directory, or of a file, that which counts first.

    Args:
        path: the directory or file.
        parse: makes a processor from its settings and its source, or raises ConfigError.

    Returns:
        The processors by their source, and why others that stand behind them can't be used.

    Raises:
        ConfigError: there is none, or the first can't be used.
    """
    files = find_processor_files(path) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        names = f"{IMAGE_FILE} or {VIDEO_FILE} in {path}, nor a {NESTED_FILE} with settings of pixels"
        missing = names if path.is_dir() else str(path)
        raise ConfigError(f"There is no {missing}; give a checkpoint's directory or a processor file.")
    found: dict[str, Processor] = {}
    notes: list[str] = []
    for file in files:
        try:
            for source, values in sections(read_json(file, ConfigError), str(file)).items():
                found[source] = parse(values, source)
        except ConfigError as error:
            if not found:
                raise
            notes.append(str(error).removesuffix("."))
    return found, notes


def _is_without_settings(file: Path) -> bool:
    try:
        values = read_json(file, ConfigError)
    except ConfigError:
        return False  # whoever reads it is told
    return not values.keys() & {*SECTIONS, *TYPE_KEYS, "size", "image_mean"}


def read_settings(values: Mapping[str, Any], known: Collection[str], *, source: str) -> dict[str, Any]:
    """Turns the contents of a processor file into the arguments of `VideoProcessor`.

    Args:
        values: the settings of one processor.
        known: the names of the settings; other keys are kept under "other".
        source: the file, which tells the class where it isn't named.

    Raises:
        ConfigError: for a class that isn't known, or a setting that would change pixels and isn't known.
    """
    is_video = Path(source).name == VIDEO_FILE or source.endswith(f"({SECTIONS[1]})")
    default_type = "TimesformerVideoProcessor" if is_video else "VideoMAEImageProcessor"
    named = str(next((values[key] for key in TYPE_KEYS if key in values), default_type))
    kind = named.removesuffix("Fast").removesuffix("Pil")
    if kind not in DEFAULTS:
        raise ConfigError(f"{named} is not supported; the classes that are: {', '.join(DEFAULTS)}.")
    defaults = DEFAULTS[kind]
    _refuse_doubtful(values, named, kind)
    settings: dict[str, Any] = dict(defaults)
    others: dict[str, str] = {}
    for key, value in values.items():
        unused = key == "offset" and "offset" not in defaults
        if (key not in known or unused) and key not in TYPE_KEYS:
            if value and _changes_pixels(key):
                raise ConfigError(f"{key} is {value!r}: it would change pixels and is not supported.")
            others[key] = json.dumps(value)
        elif key == "size" and isinstance(value, int) and defaults.get("size") == (224, 224):
            settings[key] = (value, value)
        elif isinstance(value, list):
            settings[key] = tuple(cast(list[Any], value))
        elif isinstance(value, dict):
            settings[key] = _edges(key, cast(dict[str, Any], value))
        # null: the default; but what is on by default may be off then, as it is in Transformers 4.x
        elif key in known and (value is not None or (key.startswith("do_") and defaults.get(key, True))):
            settings[key] = value
    return settings | {"other": tuple(sorted(others.items()))}


def _refuse_doubtful(values: Mapping[str, Any], named: str, kind: str) -> None:
    """Refuses what the versions of Transformers read in several ways."""
    size, square = values.get("size"), DEFAULTS[kind] is _SQUARE
    if isinstance(size, int) and values.get("default_to_square", square) not in (square, None):
        raise ConfigError(
            f"default_to_square is {values['default_to_square']!r}: {named} heeds it in some versions of Transformers "
            'only; give size as {"height": ..., "width": ...} or {"shortest_edge": ...}.'
        )
    fixed = not isinstance(size, dict) or "shortest_edge" not in size
    if square and named == kind and values.get("do_center_crop") and fixed:
        raise ConfigError(
            f"do_center_crop is {values['do_center_crop']!r}: {named} crops in some versions of Transformers only; "
            "make it false, or name VideoMAEImageProcessor, which crops."
        )


def _changes_pixels(key: str) -> bool:
    """Whether a switch that isn't known would change pixels when it is on."""
    # Frames are RGB already, and were sampled before they come here.
    return key == "offset" or (key.startswith("do_") and key not in ("do_convert_rgb", "do_sample_frames"))


def _edges(key: str, size: dict[str, Any]) -> Any:
    """Gives `{"shortest_edge": n}` as n and `{"height": h, "width": w}` as (h, w)."""
    given = {name: edge for name, edge in size.items() if edge is not None}
    if given.keys() == {"height", "width"}:
        return given["height"], given["width"]
    if given.keys() == {"shortest_edge"} and key == "size":
        return given["shortest_edge"]
    wanted = "height and width, or shortest_edge" if key == "size" else "height and width"
    raise ConfigError(f"{key} is {size!r}: it must have {wanted}, and nothing else.")
