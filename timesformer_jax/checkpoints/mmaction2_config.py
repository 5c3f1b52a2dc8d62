"""The config text in an mmaction2 checkpoint's meta, read as plain values and never run."""

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import CheckpointError, first_line

Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """How the training normalised its frames.

    Attributes:
        mean: for each channel, of pixel values from 0 to 255.
        std: likewise.
        channel_order: in which the model got the channels. mmaction2 decodes to RGB, and its to_bgr (version 0) and
            to_rgb (version 1) exchange red and blue.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: Literal["rgb", "bgr"] = "rgb"


_UNCHANGED = Normalisation((0.0,) * 3, (1.0,) * 3)
_SAMPLING = ("SampleFrames", "UniformSample")
"""How the names of steps that choose frames end."""


@dataclasses.dataclass(frozen=True)
class Mmaction2Config:
    """The settings of a training with mmaction2.

    Attributes:
        path: the checkpoint, for messages.
        values: the settings by name; empty where the checkpoint has none.
    """

    path: Path
    values: Values

    @property
    def model(self) -> Values:
        """The model's section."""
        return _section(self.values, "model")

    @property
    def backbone(self) -> Values:
        """The section of the model's backbone."""
        return _section(self.model, "backbone")

    @property
    def head(self) -> Values:
        """The section of the model's classifier."""
        return _section(self.model, "cls_head")

    def sampling_rate(self, num_frames: int) -> float | str | None:
        """The distance of a clip's frames in a video of 30 frames per second, or "segments"; None where it isn't told.

        mmaction2 counts the frames of a video, whatever its rate, unless target_fps says otherwise.
        """
        clips = [values for values in _dictionaries(self.values) if values.get("clip_len") == num_frames]
        training = [values for values in clips if not values.get("test_mode")] or clips
        rates = {_rate(values) for values in training}
        return rates.pop() if len(rates) == 1 else None

    def normalisation(self) -> Normalisation | None:
        """How frames were normalised; None where the settings don't tell.

        Raises:
            CheckpointError: they contradict each other, or can't be.
        """
        if "data_preprocessor" in self.model or "data_preprocessor" in self.values:
            section = _section(self.model, "data_preprocessor") or _section(self.values, "data_preprocessor")
            return self._normalisation(section, "to_rgb")
        steps = [values for values in _dictionaries(self.values) if _kind(values) == "Normalize"]
        found = {self._normalisation(step, "to_bgr") for step in steps}
        if len(found) > 1:
            raise CheckpointError(f"{self.path}: its config normalises frames in several ways: {found}.")
        if not found and any(_kind(values).endswith(_SAMPLING) for values in _dictionaries(self.values)):
            return _UNCHANGED  # steps are told, and normalising is none of them
        return found.pop() if found else None

    def _normalisation(self, section: Values, swap: str) -> Normalisation:
        order = "bgr" if section.get(swap) else "rgb"
        if section.get("mean") is None and section.get("std") is None:
            return dataclasses.replace(_UNCHANGED, channel_order=order)
        mean, std = (_numbers(section.get(name)) for name in ("mean", "std"))
        if not mean or len(mean) != len(std) or 0 in std:
            problem = f"mean {section.get('mean')!r} and std {section.get('std')!r}"
            raise CheckpointError(f"{self.path}: its config says {problem}, which can't be.")
        return Normalisation(mean, std, order)


def read_mmaction2_config(path: Path, meta: object) -> Mmaction2Config:
    """Reads the config in a checkpoint's meta: "cfg" in version 1 of mmaction2 and "config" in version 0.

    Raises:
        CheckpointError: it is no text of assignments.
    """
    texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, Mapping) else []
    text = next((text for text in texts if text is not None), None)
    if text is None:
        return Mmaction2Config(path, {})
    try:
        body = ast.parse(text).body if isinstance(text, str) else None
        if body is None:
            raise ValueError(f"but a {type(text).__name__}")
        assigned = [statement for statement in body if isinstance(statement, ast.Assign)]
        pairs = [(target, s.value) for s in assigned for target in s.targets if isinstance(target, ast.Name)]
        return Mmaction2Config(path, {target.id: _value(value) for target, value in pairs})
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path}: the config in its meta is no text of settings ({first_line(error)}).") from None


def _value(node: ast.expr) -> Any:
    """A plain value; None for an expression of another kind, which is left aside."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return tuple(map(_value, items))
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {key.value: _value(value) for key, value in pairs if isinstance(key, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict"), args=args, keywords=keywords):
            positional = [_value(arg) for arg in args if isinstance(arg, ast.Dict)]
            named = {keyword.arg: _value(keyword.value) for keyword in keywords if keyword.arg is not None}
            return {key: value for values in (*positional, named) for key, value in values.items()}
        case _:
            return None


def _section(values: Values, name: str) -> Values:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _dictionaries(value: Any) -> Iterator[Values]:
    """All dictionaries in a value, such as the steps of a pipeline."""
    if isinstance(value, Mapping):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ():
        yield from _dictionaries(item)


def _kind(values: Values) -> str:
    """The class that a section is for; newer configs give its whole path."""
    return str(values.get("type")).rpartition(".")[-1]


def _rate(step: Values) -> float | str | None:
    if _kind(step).startswith("Uniform"):
        return "segments"
    interval, fps = step.get("frame_interval", 1), step.get("target_fps") or 30
    valid = all(isinstance(number, int | float) and number > 0 for number in (interval, fps))
    return interval * 30 / fps if valid and _kind(step).endswith("SampleFrames") else None


def _numbers(values: Any) -> tuple[float, ...]:
    valid = isinstance(values, tuple) and all(isinstance(value, int | float) for value in values)
    return tuple(map(float, values)) if valid else ()
