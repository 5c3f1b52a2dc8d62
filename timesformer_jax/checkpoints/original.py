"""The original repository's checkpoints (.pyth): weights, and the training's settings as a YAML text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import TimesformerConfig
from ..errors import CheckpointError, first_line
from .contents import Contents, Tensors, WeightsFile, without_prefix
from .names import config_from_shapes, renamed, require_model, to_original, with_head_names
from .preprocessing import Preprocessing

MARK = "patch_embed.proj.weight"
"""The tensor by which this layout, which is timm's too, is recognised."""


def is_facebook(file: WeightsFile) -> bool:
    """Whether a file in timm's layout is a TimeSformer and not a ViT.

    A space-only TimeSformer has the tensors of a ViT: only what the training wrote beside them tells.
    """
    temporal = any(name.endswith("time_embed") or ".temporal_" in name for name in file.tensors)
    return temporal or file.wrapper == "model_state" or "cfg" in file.notes


def open_facebook(file: WeightsFile, prefix: str, known: Mapping[str, Any]) -> Contents:
    """An original checkpoint, or its bare state dict, as a TimeSformer of Transformers.

    Attention type, frames, crop, classes, normalisation and sampling come from the shapes and from the settings, which
    must agree.

    Args:
        file: the opened file.
        prefix: what stands before the names of its tensors.
        known: config fields that the user gives; those that neither shapes nor settings tell are taken from it.

    Raises:
        CheckpointError: tensors are missing, unknown or wrongly shaped, the settings can't be read or contradict the
            tensors, or something that nobody can tell was not given; the message names the argument.
    """
    tensors = renamed(file.path, without_prefix(file.tensors, prefix))
    settings = _Settings(file.path, file.notes.get("cfg"))
    config = config_from_shapes(
        file.path,
        tensors,
        known,
        attention_type=_attention_type(tensors),
        num_frames=settings.get("DATA.NUM_FRAMES", int),
        sampling_rate=_sampling_rate(settings),
    )
    tensors = with_head_names(tensors)
    require_model(file.path, tensors, config, lambda name: prefix + to_original(name))
    _require_agreement(config, settings, has_head="classifier.weight" in tensors)
    return Contents("facebook", config, tensors, preprocessing=_preprocessing(config, settings))


class _Settings:
    """The training's settings, a tree of sections; empty where the file has none."""

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

    def get(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """A setting such as "DATA.NUM_FRAMES"; None where it is not there.

        Raises:
            CheckpointError: it is there and of another type.
        """
        value: Any = self.values
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise CheckpointError(f"{self.path}: its cfg says {name}: {value!r}, which can't be.")
        return value


def _attention_type(tensors: Tensors) -> str:
    if any(".temporal_" in name for name in tensors):
        return "divided_space_time"
    return "joint_space_time" if "embeddings.time_embeddings" in tensors else "space_only"


def _sampling_rate(settings: _Settings) -> float | str | None:
    """Source frames between sampled ones at 30 frames per second; the original's TARGET_FPS may be another."""
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


def _preprocessing(config: TimesformerConfig, settings: _Settings) -> Preprocessing:
    """Mean and deviation are 0.45 and 0.225 in all of the original's settings, and where a file has none."""
    dataset, statistics = _dataset(settings), {}
    for field, name in (("mean", "DATA.MEAN"), ("std", "DATA.STD")):
        values = settings.get(name, list)
        if values is None:
            continue
        if len(values) != config.num_channels or not all(isinstance(value, int | float) for value in values):
            raise CheckpointError(f"{settings.path}: its cfg says {name}: {values!r}, which can't be.")
        statistics[field] = tuple(float(value) for value in values)
    return Preprocessing(
        config.image_shape,
        **statistics,
        # The original decodes Kinetics to RGB (pyav_decode in its decoder.py). The frames of ssv2 it reads with OpenCV,
        # as BGR, and REVERSE_INPUT_CHANNEL does not act on this model; other datasets' code was never released.
        channel_order="rgb" if dataset == "kinetics" else None,
        trained_on=dataset,
    )
