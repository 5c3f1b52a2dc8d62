"""The published models (the original repository's model zoo): frames, crop, classes and sampling of each."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

_CLASSES = {"k400": 400, "k600": 600, "ssv2": 174}
_BASE: dict[str, Any] = {"num_frames": 8, "image_size": 224}
_HR: dict[str, Any] = {"num_frames": 16, "image_size": 448}
_LARGE: dict[str, Any] = {"num_frames": 96, "image_size": 224}


def _kinetics(dataset: str) -> dict[str, dict[str, Any]]:
    classes = {"num_labels": _CLASSES[dataset]}
    return {
        f"base-{dataset}": _BASE | classes | {"sampling_rate": 32.0},
        f"hr-{dataset}": _HR | classes | {"sampling_rate": 16.0},
        f"large-{dataset}": _LARGE | classes | {"sampling_rate": 4.0},
    }


_SSV2: dict[str, Any] = {"num_labels": _CLASSES["ssv2"], "sampling_rate": "segments"}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    _kinetics("k400")
    | _kinetics("k600")
    | {
        "base-ssv2": _BASE | _SSV2,
        "hr-ssv2": _HR | _SSV2,
        "large-ssv2": _LARGE | _SSV2 | {"num_frames": 64},
    }
    | {
        f"howto100m-{frames}": {"num_frames": frames, "num_labels": 1059, "sampling_rate": 32.0}
        for frames in (8, 32, 64, 96)
    }
)
"""Arguments of `TimesformerConfig` by the model's name, such as "base-k400"."""


def published_sampling_rate(source: str) -> float | Literal["segments"] | None:
    """The `sampling_rate` of a model published on the Hub, known by its id; None for any other source."""
    match = re.fullmatch(r"facebook/timesformer-(base|hr|large)-finetuned-(k400|k600|ssv2)", source)
    return PRESETS["-".join(match.groups())]["sampling_rate"] if match else None
