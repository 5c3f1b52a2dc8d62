"""The original repository's checkpoints (.pyth), which hold weights and the training's settings as YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import TimesformerConfig
from ..errors import CheckpointError, first_line
from ..video.processing import VideoProcessor
from .huggingface import torch_model
from .names import attention_type, config_from_shapes, renamed, to_original, with_head_names
from .stored_model import StoredModel
from .weights_file import WeightsFile

MARK = "patch_embed.proj.weight"
"""The tensor by which this layout is recognised. timm's ViTs have it, too."""


def is_original(file: WeightsFile) -> bool:
    """Whether a file in timm's layout is a TimeSformer and not a ViT.

    A space-only TimeSformer has the tensors of a ViT; what the training wrote beside them tells the two apart.
    """
    temporal = any(name.endswith("time_embed") or ".temporal_" in name for name in file.tensors)
    return temporal or file.wrapper == "model_state" or "cfg" in file.notes


def open_original(file: WeightsFile, prefix: str, known: Mapping[str, Any]) -> StoredModel:
    """Opens an original checkpoint, or its bare state dict, as a TimeSformer of Transformers.

    Attention type, frames, crop, classes, normalisation and sampling come from the shapes and from the settings, which
    must agree.

    Args:
        file: the opened file.
        prefix: what stands before the names of its tensors.
        known: config fields that the user gives, for those that neither shapes nor settings tell.

    Raises:
        CheckpointError: tensors are missing, unknown or wrongly shaped, the settings can't be read or contradict the
            tensors, or an argument is needed that was not given; the message names it.
    """
    own_name, tensors = file.naming(prefix), renamed(file.path, file.without_prefix(prefix))
    settings = _Settings(file.path, file.notes.get("cfg"))
    config = config_from_shapes(
        file.path,
        tensors,
        known,
        attention_type=attention_type(tensors),
        num_frames=settings.get("DATA.NUM_FRAMES", int),
        sampling_rate=_sampling_rate(settings),
    )
    tensors = with_head_names(tensors)
    _require_agreement(config, settings, has_head="classifier.weight" in tensors)
    return torch_model(
        file.path,
        tensors,
        config,
        "TimeSformer in the format of the original repository",
        lambda name: own_name(to_original(name)),
        processor=_processor(config, settings),
        unknown_order=_unknown_order(_dataset(settings)),
    )


class _Settings:
    """The training's settings, a tree of sections, which is empty where the file has none."""

    def __init__(self, path: Path, text: object) -> None:
        import yaml

        self.path = path
        if text is None:
            self.values: Any = {}
            return
        try:
            # The safe loader makes plain values alone, whatever the text says.
            self.values = yaml.safe_load(text) if isinstance(text, str) else None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: its cfg is no YAML ({first_line(error)}).") from None
        if not isinstance(self.values, dict):
            raise CheckpointError(f"{path}: its cfg holds no settings but {type(text).__name__}.")

    def get(self, name: str, types: type | tuple[type, ...]) -> Any:
        """A setting such as "DATA.NUM_FRAMES"; None where the file has none.

        Raises:
            CheckpointError: the setting has another type.
        """
        value: Any = self.values
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
            raise CheckpointError(f"{self.path}: its cfg says {name}: {value!r}, which can't be.")
        return value


def _sampling_rate(settings: _Settings) -> float | str | None:
    """The rate of sampling at 30 frames per second; the original's TARGET_FPS may be another."""
    if _dataset(settings) == "ssv2":
        return "segments"
    rate, fps = settings.get("DATA.SAMPLING_RATE", (int, float)), settings.get("DATA.TARGET_FPS", (int, float))
    if rate is None or rate <= 0 or (fps is not None and fps <= 0):
        return None
    return float(rate) * 30 / (fps or 30)


def _dataset(settings: _Settings) -> str | None:
    name = settings.get("TRAIN.DATASET", str)
    return name.lower() if name else None


def _require_agreement(config: TimesformerConfig, settings: _Settings, *, has_head: bool) -> None:
    tensors = {
        "TIMESFORMER.ATTENTION_TYPE": config.attention_type,
        "DATA.NUM_FRAMES": config.num_frames,
        "DATA.TRAIN_CROP_SIZE": config.image_size,
        "MODEL.NUM_CLASSES": config.num_labels,
    }
    contradictions = [
        f"{name} {said!r} but tensors for {found!r}"
        for name, found in tensors.items()
        if (said := settings.get(name, (int, str))) not in (None, found) and (has_head or name != "MODEL.NUM_CLASSES")
    ]
    if contradictions:
        raise CheckpointError(
            f"{settings.path} contradicts itself: its cfg says {'; '.join(contradictions)}. One of the two belongs to "
            "another checkpoint."
        )


def _processor(config: TimesformerConfig, settings: _Settings) -> VideoProcessor | None:
    """A preprocessing with the settings' mean and deviation; None for a model of other than three channels."""
    statistics: dict[str, Any] = {}
    for field, name in (("image_mean", "DATA.MEAN"), ("image_std", "DATA.STD")):
        values = settings.get(name, list)
        if values is None:  # the defaults are those of all of the original's settings
            continue
        if len(values) != config.num_channels or not all(isinstance(value, int | float) for value in values):
            raise CheckpointError(f"{settings.path}: its cfg says {name}: {values!r}, which can't be.")
        statistics[field] = tuple(values)
    return VideoProcessor(**statistics) if config.num_channels == 3 else None


def _unknown_order(dataset: str | None) -> str | None:
    """The reason why the channel order of a data set's frames is not known; None where it is RGB.

    The original decodes Kinetics to RGB (pyav_decode in its decoder.py). It reads the frames of ssv2 with OpenCV, as
    BGR, and REVERSE_INPUT_CHANNEL does not act on this model. The code for other data sets was never released.
    """
    match dataset:
        case "kinetics":
            return None
        case None:
            return "the file does not say what it was trained on"
        case "ssv2":
            return "it was trained on ssv2, whose frames the original code reads in BGR order, but nothing records it"
        case _:
            return f"it was trained on {dataset}, and nothing records in which order its frames were read"
