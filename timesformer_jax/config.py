"""The configuration: what Transformers' `TimesformerConfig` holds, checked when it is made, and never changed after."""

from __future__ import annotations

import dataclasses
import json
import operator
import reprlib
import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, TypeGuard, get_args

from .errors import ConfigError
from .presets import PRESETS
from .support.files import read_json, write_atomically

AttentionType = Literal["divided_space_time", "space_only", "joint_space_time", "sparse_local_global", "axial"]
PositionEmbeddingType = Literal["space_time", "space", "none"]
AttentionOrder = Literal["time_space", "space_time", "parallel"]
AttentionImplementation = Literal["auto", "plain", "blocks", "cudnn"]
Remat = Literal["none", "dots", "full", "clips"]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
Size = int | tuple[int, int]

_OWN_KEY = "timesformer_jax"
"""Where config.json keeps what Transformers has no field, or no fitting type, for."""
_OWN_FIELDS = ("sampling_rate", "position_embedding_type", "attention_order")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimesformerConfig:
    """Architecture and labels of a TimeSformer, under the names of Transformers 4.56.2 (configuration_timesformer.py).

    Frozen and hashable, so that a config, and a model that holds one, can be a static argument of `jax.jit`.

    Attributes:
        image_size: pixels, a side or (height, width); the size that the position embeddings were made for.
        patch_size: pixels, a side or (height, width); divides `image_size`.
        num_channels: colour channels of a frame.
        num_frames: frames the time embeddings were made for. The input decides how many a clip has.
        hidden_size: width of a token; a multiple of `num_attention_heads`.
        num_hidden_layers: encoder layers.
        num_attention_heads: heads of every attention.
        intermediate_size: width inside the MLP.
        hidden_act: activation of the MLP, a name in `ACTIVATIONS`; "gelu" is the exact (erf) one.
        hidden_dropout_prob: dropout after the embeddings and after every dense layer but qkv, in [0, 1).
        attention_probs_dropout_prob: dropout of attention probabilities, in [0, 1).
        initializer_range: standard deviation of newly made weights.
        layer_norm_eps: added to the variance in every LayerNorm.
        qkv_bias: whether queries, keys and values have a bias.
        attention_type: the scheme of the paper's section 3: "divided_space_time", "joint_space_time", "space_only",
            "sparse_local_global" or "axial" (see schemes.py; the last two are unknown to Transformers).
        drop_path_rate: stochastic depth of the last layer, in [0, 1); grows linearly from 0 at the first.
        num_labels: classes; 0 leaves the classifier out. From `id2label` where that is given, else 2.
        id2label: class index -> name; "LABEL_0" and so on when not given.
        label2id: name -> class index; the inverse of `id2label` when not given.
        problem_type: which loss `labels` are scored with; None lets the labels' type decide (see model/losses.py).
        sampling_rate: how a clip is taken from a video. A number: source frames from one sampled frame to the next in
            a video of 30 frames per second (the "32" of the paper's 8x32). "segments": one frame from each of
            `num_frames` equal parts of the video. None: not known. Not a field of Transformers, nor are the next two.
        position_embedding_type: what is added to patches, as in the paper's table 4: "space_time", "space", "none".
        attention_order: of the steps of divided attention: "time_space" (the paper's), "space_time", or "parallel",
            where both read the same tokens and their residuals are added.
        extra: keys of a config.json that have no meaning here; kept and written back.

    Raises:
        ConfigError: a value no model can have; the message names the field.
    """

    image_size: Size = 224
    patch_size: Size = 16
    num_channels: int = 3
    num_frames: int = 8
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    attention_type: AttentionType = "divided_space_time"
    drop_path_rate: float = 0.0
    # None stands for "work it out"; __post_init__ puts the value in its place.
    num_labels: int = None  # pyright: ignore[reportAssignmentType]
    id2label: Mapping[int, str] = dataclasses.field(default=None, repr=False)  # pyright: ignore[reportAssignmentType]
    label2id: Mapping[str, int] = dataclasses.field(default=None, repr=False)  # pyright: ignore[reportAssignmentType]
    problem_type: ProblemType | None = None
    sampling_rate: float | Literal["segments"] | None = None
    position_embedding_type: PositionEmbeddingType = "space_time"
    attention_order: AttentionOrder = "time_space"
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._settle("image_size", _size(self.image_size, "image_size"))
        self._settle("patch_size", _size(self.patch_size, "patch_size"))
        for name, most in _COUNTS.items():
            value = getattr(self, name)
            _require(_is_int(value) and 0 < value <= most, name, value, f"a whole number from 1 to {most:,}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            value = getattr(self, name)
            _require(_is_number(value) and 0 <= value < 1, name, value, "a rate in [0, 1)")
            self._settle(name, float(value))
        for name, allowed, wanted in (
            ("initializer_range", operator.ge, "a number, 0 or above"),
            ("layer_norm_eps", operator.gt, "a number above 0"),
        ):
            value = getattr(self, name)
            _require(_is_number(value) and allowed(value, 0), name, value, wanted)
            self._settle(name, float(value))  # Transformers 5.x takes no integer for these two
        _require(isinstance(self.qkv_bias, bool), "qkv_bias", self.qkv_bias, "true or false")
        _require_one_of("attention_type", self.attention_type, get_args(AttentionType))
        _require_one_of("position_embedding_type", self.position_embedding_type, get_args(PositionEmbeddingType))
        _require_one_of("attention_order", self.attention_order, get_args(AttentionOrder))
        if self.attention_order != "time_space" and self.attention_type != "divided_space_time":
            raise ConfigError(
                f"attention_order {self.attention_order!r} is one of divided_space_time attention alone, and "
                f"attention_type is {self.attention_type!r}; leave attention_order at 'time_space'."
            )
        from .activations import ACTIVATIONS  # which imports JAX: the command line needs names of this file without it

        _require_one_of("hidden_act", self.hidden_act, tuple(ACTIVATIONS))
        if self.problem_type is not None:
            _require_one_of("problem_type", self.problem_type, get_args(ProblemType))
        rate = self.sampling_rate
        _require(
            rate is None or rate == "segments" or (_is_number(rate) and rate > 0),
            "sampling_rate",
            rate,
            'a number above 0, "segments" or None',
        )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"num_attention_heads: {self.num_attention_heads} heads do not divide hidden_size {self.hidden_size}; "
                "choose a divisor."
            )
        for side, image, patch in zip(("height", "width"), self.image_shape, self.patch_shape, strict=True):
            if image % patch:
                raise ConfigError(
                    f"patch_size: patches of {side} {patch} do not divide the image_size's {side} {image}; "
                    "choose a divisor."
                )
        self._settle_labels()
        self._settle("extra", _frozen(self.extra))

    def _settle(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _settle_labels(self) -> None:
        if self.id2label is None:
            num_labels = 2 if self.num_labels is None else self.num_labels
            valid = _is_int(num_labels) and 0 <= num_labels <= _MOST_LABELS
            _require(valid, "num_labels", num_labels, f"a whole number from 0 to {_MOST_LABELS:,}")
            id2label = {i: f"LABEL_{i}" for i in range(num_labels)}
        else:
            valid = isinstance(self.id2label, Mapping)
            _require(valid, "id2label", self.id2label, "a mapping of class indices to names")
            try:
                # In order: a config.json may be sorted by text, with "10" before "2".
                names = sorted((int(str(i)), str(name)) for i, name in self.id2label.items())
            except ValueError:
                raise ConfigError("id2label: every key must be a class index (a whole number).") from None
            num_labels = len(names) if self.num_labels is None else self.num_labels
            if num_labels != len(names):
                raise ConfigError(
                    f"num_labels is {num_labels!r} but id2label names {len(names)} classes; give one of the two, or "
                    "use config.replace(num_labels=...), which makes new names."
                )
            if [i for i, _ in names] != list(range(num_labels)):
                raise ConfigError(f"id2label: the class indices must be 0 to {num_labels - 1}, each once.")
            id2label = dict(names)
        if self.label2id is None:
            label2id = {name: i for i, name in id2label.items()}
        else:
            valid = isinstance(self.label2id, Mapping) and all(map(_is_index, self.label2id.values()))
            _require(valid, "label2id", self.label2id, "a mapping of names to class indices (whole numbers)")
            label2id = {str(name): int(i) for name, i in self.label2id.items()}
        from flax.core import FrozenDict

        self._settle("num_labels", num_labels)
        self._settle("id2label", FrozenDict(id2label))
        self._settle("label2id", FrozenDict(label2id))

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of a frame in pixels."""
        return _pair(self.image_size)

    @property
    def patch_shape(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels."""
        return _pair(self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches in a frame."""
        (height, width), (patch_height, patch_width) = self.image_shape, self.patch_shape
        return height // patch_height, width // patch_width

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed. Another `num_labels` makes new label names unless they are given."""
        if changes.get("num_labels", self.num_labels) != self.num_labels:
            changes = {"id2label": None, **changes}
        if "id2label" in changes:
            changes = {"num_labels": None, "label2id": None, **changes}
        unknown = set(changes) - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise ConfigError(f"TimesformerConfig has no field {', '.join(sorted(unknown))}.")
        return dataclasses.replace(self, **changes)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The configuration of a published model, such as "base-k400", "hr-ssv2" or "large-k600" (see presets.py).

        Raises:
            ConfigError: no preset has this name; the message lists those there are.
        """
        if name not in PRESETS:
            raise ConfigError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}.")
        return cls(**PRESETS[name]).replace(**overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration") -> Self:
        """From the contents of a config.json that Transformers 4.x or 5.x, or this package, wrote.

        Raises:
            ConfigError: it configures another kind of model, or a value is impossible; `source` is named.
        """
        values = dict(values)
        model_type = values.pop("model_type", "timesformer")
        if model_type != "timesformer":
            raise ConfigError(f"{source} configures a {model_type!r} model, not a 'timesformer'.")
        own = values.pop(_OWN_KEY, None) or {}
        names = {field.name for field in dataclasses.fields(cls)} - {"extra", *_OWN_FIELDS}
        fields: dict[str, Any] = {name: values.pop(name) for name in names if name in values}
        # Transformers' own defaults stand for keys that are null; problem_type may really be None.
        fields = {name: value for name, value in fields.items() if value is not None}
        try:
            if not isinstance(own, Mapping):
                raise ConfigError(f"{_OWN_KEY} must be an object, not {own!r}.")
            fields["drop_path_rate"] = fields.get("drop_path_rate") or own.get("drop_path_rate", 0.0)
            fields |= {name: own[name] for name in _OWN_FIELDS if own.get(name) is not None}
            return cls(**fields, extra=values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The contents of a config.json that Transformers 4.x and 5.x read, keys of `extra` included."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        extra = _thawed(fields.pop("extra"))
        del fields["num_labels"]  # Transformers counts id2label
        # Transformers 5.x types drop_path_rate as an integer, and 0 is the only whole rate.
        own = {name: fields.pop(name) for name in ("drop_path_rate", *_OWN_FIELDS)}
        own = {name: value for name, value in own.items() if value != getattr(type(self), name)}
        values = extra | {name: _thawed(value) for name, value in fields.items()}
        values |= {"drop_path_rate": 0, "model_type": "timesformer"}
        if values["problem_type"] is None:
            del values["problem_type"]
        return values | ({_OWN_KEY: own} if own else {})

    @classmethod
    def from_json_file(cls, path: str | PathLike[str]) -> Self:
        """Reads a config.json.

        Raises:
            ConfigError: the file can't be read, is not a JSON object, or configures no possible TimeSformer.
        """
        return cls.from_dict(read_json(path, ConfigError), source=str(path))

    def save_json_file(self, path: str | PathLike[str]) -> None:
        """Writes a config.json, whole or not at all."""
        with write_atomically(Path(path)) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")


# No model is larger, and a config.json that says so must not exhaust the memory before the weights are compared.
_MOST = 1_000_000
_MOST_LABELS = 1_000_000
_COUNTS = {
    "num_channels": _MOST,
    "num_frames": _MOST,
    "hidden_size": _MOST,
    "num_hidden_layers": 1_000,
    "num_attention_heads": _MOST,
    "intermediate_size": _MOST,
}


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_index(value: object) -> TypeGuard[int | str]:
    """Whether a value is a class index; the training scripts of Transformers write them as texts ("7")."""
    return _is_int(value) or (isinstance(value, str) and value.isdecimal() and value.isascii())


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _require(valid: bool, name: str, value: object, wanted: str) -> None:
    if not valid:
        raise ConfigError(f"{name} must be {wanted}, not {reprlib.repr(value)}.")


def _require_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    _require(isinstance(value, str) and value in known, name, value, f"one of {', '.join(known)}")


def _size(value: Any, name: str) -> Size:
    """A side, or a tuple of two where they differ: equal sides are one number, so that equal configs compare equal."""
    sides = (value, value) if _is_int(value) else value
    valid = isinstance(sides, list | tuple) and len(sides) == 2
    valid = valid and all(_is_int(side) and 0 < side <= _MOST for side in sides)
    _require(valid, name, value, f"a whole number of pixels from 1 to {_MOST:,}, or two: (height, width)")
    height, width = sides
    return height if height == width else (height, width)


def _pair(size: Size) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        from flax.core import FrozenDict

        return FrozenDict({key: _frozen(item) for key, item in value.items()})
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thawed(item) for key, item in value.items()}
    return [_thawed(item) for item in value] if isinstance(value, list | tuple) else value
