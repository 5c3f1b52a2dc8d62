"""The variants that `timesformer ablate` compares: named sets of changes to a recipe, as in the paper's tables."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from ..config import AttentionOrder, AttentionType, PositionEmbeddingType, TimesformerConfig
from ..errors import ConfigError
from ..training.recipe import ModelOptions, TrainConfig

SetName = Literal["schemes", "embeddings", "order", "frames", "size"]
"""What the paper compares: attention schemes (its table 1), position embeddings (table 4), the order of the steps of
divided attention, frames of a clip and size of a crop (figure 4)."""

BASE = "base"
"""The key of the recipe as it is."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of a table.

    Attributes:
        set: the table.
        name: what the row is called.
        key: tells what is trained: two rows with the same key, of whatever tables, are one model.
        changes: fields of `ModelOptions`, and so of the model's config, with other values than the recipe's.
    """

    set: SetName
    name: str
    key: str
    changes: Mapping[str, Any]

    def apply(self, recipe: TrainConfig) -> TrainConfig:
        """The recipe with the changes, and with those that follow from them.

        A clip of other frames covers the same stretch of time, and one of another size is cut from frames resized in
        proportion.

        Raises:
            ConfigError: the recipe does not tell the clip that it changes.
        """
        options, data = recipe.model, recipe.data
        changes = dict(self.changes)
        frames, rate = _known(options, "num_frames"), _known(options, "sampling_rate")
        if "num_frames" in changes and rate != "segments":
            changes["sampling_rate"] = rate * frames / changes["num_frames"]
        if "image_size" in changes and data.augmentation.short_side is not None:
            scale = changes["image_size"] / _known(options, "image_size")
            shortest, longest = (round(scale * side) for side in data.augmentation.short_side)
            augmentation = dataclasses.replace(data.augmentation, short_side=(shortest, longest))
            data = dataclasses.replace(data, augmentation=augmentation)
        return dataclasses.replace(recipe, model=dataclasses.replace(options, **changes), data=data)


def variants_of(
    sets: Sequence[SetName],
    options: ModelOptions,
    *,
    frames: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
) -> list[Variant]:
    """The variants of the sets that are asked for.

    Args:
        sets: which.
        options: the recipe's model.
        frames: of the set "frames"; half of the recipe's, as many and twice as many when None.
        sizes: pixels, of the set "size"; the recipe's, one and a half and two times that when None.

    Raises:
        ConfigError: there is nothing to compare, or the recipe does not tell its own frames or size.
    """
    if not sets or len(set(sets)) < len(sets):
        raise ConfigError(f"name each set of variants once: some of {', '.join(get_args(SetName))}.")
    tables: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name in sets:
        if name == "frames":
            own = _known(options, "num_frames")
            counts = frames or (max(1, own // 2), own, 2 * own)
            tables[name] = [(f"{count} frames", {"num_frames": count}) for count in counts]
        elif name == "size":
            own, patch = _known(options, "image_size"), _known(options, "patch_size")
            sides = sizes or (own, patch * (3 * own // (2 * patch)), 2 * own)
            tables[name] = [(f"{side} pixels", {"image_size": side}) for side in sides]
        else:
            field, values = _FIELDS[name]
            tables[name] = [(value.replace("_", " "), {field: value}) for value in values]
    return [Variant(name, row, _key(changes, options), changes) for name in sets for row, changes in tables[name]]


_FIELDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "schemes": ("attention_type", get_args(AttentionType)),
    "embeddings": ("position_embedding_type", get_args(PositionEmbeddingType)),
    "order": ("attention_order", get_args(AttentionOrder)),
}
"""The sets that go through all values of a field."""


def _key(changes: Mapping[str, Any], options: ModelOptions) -> str:
    different = [f"{name}={value}" for name, value in changes.items() if value != _value(options, name)]
    return ",".join(different) or BASE


def _value(options: ModelOptions, name: str) -> Any:
    """What a recipe's model has; None where only its checkpoint knows."""
    value = getattr(options, name)
    if value is None and options.checkpoint is None:
        return getattr(TimesformerConfig.preset(options.architecture, **options.overrides()), name)
    return value


def _known(options: ModelOptions, name: str) -> Any:
    value = _value(options, name)
    if value is None:
        option = name.replace("_", "-")
        raise ConfigError(
            f"only the checkpoint knows the {name} that variants are derived from; give --model.{option}."
        )
    return value
