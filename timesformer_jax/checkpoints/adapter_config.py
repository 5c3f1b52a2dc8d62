"""The adapter_config.json of a PEFT adapter: which modules of a model LoRA changes, and by how much."""

import dataclasses
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ..errors import CheckpointError
from ..support.files import read_json

ADAPTER_CONFIG = "adapter_config.json"

_WITHOUT_EFFECT = (
    *("auto_mapping", "corda_config", "ensure_weight_tying", "eva_config", "inference_mode", "loftq_config"),
    *("lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "merge_weights", "peft_version"),
    *("qalora_group_size", "runtime_config"),
    "fan_in_fan_out",  # PEFT switches it off for linear layers
)
"""Settings that change nothing in the merged weights of a TimeSformer."""

_SOUND_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of init_lora_weights that leave the base's weights as they are. PiSSA, OLoRA and others subtract from them."""

REMEDY = "merge it with PEFT itself (model.merge_and_unload()) and save the merged model"
"""What to do with an adapter that can't be merged here."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The settings of a LoRA adapter, called as PEFT calls them.

    Attributes:
        file: the adapter_config.json, for errors.
        base_model_name_or_path: the model that the adapter was trained on; None where the file does not tell.
        revision: the revision of that model on the Hub.
        r: the rank of the modules that no key of `rank_pattern` matches.
        lora_alpha: the numerator of the scale of the modules that no key of `alpha_pattern` matches.
        target_modules: a regular expression for the whole names of modules, or the ends of their names.
        exclude_modules: the same for modules that are left out.
        layers_to_transform: the numbers of the layers, where not all are changed.
        layers_pattern: the names of the lists of layers that these numbers count.
        rank_pattern: ranks by regular expressions for the ends of modules' names; the first that matches counts.
        alpha_pattern: the same for `lora_alpha`.
        use_rslora: whether the scale is lora_alpha / sqrt(r) and not lora_alpha / r.
        use_dora: whether the adapter has the length of each row of a weight besides (arXiv 2402.09353).
        lora_bias: whether the second matrix has a bias.
        bias: which biases of the base are the adapter's: "none", "all", or those of the changed modules ("lora_only").
        modules_to_save: ends of the names of modules that the adapter holds whole, such as the classifier.
        task_type: what PEFT made the model for.
    """

    file: Path
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: int = 8
    lora_alpha: float = 8
    target_modules: str | tuple[str, ...] = ()
    exclude_modules: str | tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    bias: str = "none"
    modules_to_save: tuple[str, ...] = ()
    task_type: str | None = None

    @classmethod
    def from_json_file(cls, file: Path) -> Self:
        """Reads an adapter_config.json.

        Raises:
            CheckpointError: the file can't be read, is another kind of adapter's, or has a setting that can't be
                merged here.
        """
        values = read_json(file, CheckpointError)
        kind = values.pop("peft_type", None)
        if kind is None:
            raise CheckpointError(f"{file} has no peft_type, so it is no adapter of PEFT's.")
        if kind != "LORA":
            raise CheckpointError(f"{file} is an adapter of the kind {kind!s}, and LoRA alone is read here; {REMEDY}.")
        start = values.pop("init_lora_weights", None)
        if not any(start is sound or (isinstance(start, str) and start == sound) for sound in _SOUND_STARTS):
            raise CheckpointError(
                f"{file}: init_lora_weights is {start!r}, for which PEFT changes the weights of the base as well; save "
                "the adapter with path_initial_model_for_weight_conversion, or the merged model."
            )
        known = {field.name for field in dataclasses.fields(cls)} - {"file"}
        set_besides = [name for name in values if name not in (*known, *_WITHOUT_EFFECT) and values[name]]
        if set_besides:
            raise CheckpointError(f"{file} sets {', '.join(sorted(set_besides))}, which is not read here; {REMEDY}.")
        given = {name: value for name, value in values.items() if name in known and value is not None}
        for name, value in given.items():
            valid, wanted = _VALUES[name]
            if not valid(value):
                raise CheckpointError(f"{file}: {name} must be {wanted}, not {value!r}.")
            if isinstance(value, list) or name in ("layers_to_transform", "layers_pattern"):
                given[name] = tuple(value) if isinstance(value, list) else (value,)
        config = cls(file=file, **given)
        if not config.target_modules:
            raise CheckpointError(f"{file} names no target_modules, so nothing says which layers it changes.")
        config._require_sense()
        return config

    def _require_sense(self) -> None:
        if isinstance(self.target_modules, str) and (self.layers_to_transform or self.layers_pattern):
            raise CheckpointError(f"{self.file}: layers_to_transform goes with a list of target_modules alone.")
        if self.use_dora and self.lora_bias:
            raise CheckpointError(f"{self.file} sets use_dora and lora_bias, which don't go together.")
        patterns = [self.target_modules, self.exclude_modules]
        expressions = [pattern for pattern in patterns if isinstance(pattern, str)]
        expressions += [*self.layers_pattern, *self.modules_to_save, *self.rank_pattern, *self.alpha_pattern]
        for expression in expressions:
            try:
                re.compile(expression)
            except re.error as error:
                raise CheckpointError(f"{self.file}: {expression!r} is no regular expression ({error}).") from None

    def targets(self, modules: Sequence[str], linear: Sequence[str]) -> list[str]:
        """The modules that LoRA changes, as PEFT matches their names.

        Args:
            modules: the names of all modules of the model.
            linear: those of the linear layers among them.
        """
        targets = self.target_modules
        if isinstance(targets, str) and targets.lower() == "all-linear":
            head = ("classifier",) if self.task_type == "SEQ_CLS" else ()
            targets = tuple(name for name in linear if name not in head)
        return [name for name in modules if _matches(targets, name) and self._takes_part(name)]

    def _takes_part(self, module: str) -> bool:
        """Whether neither an exclusion, nor a module that is held whole, nor the layer's number leaves a module out."""
        if self.exclude_modules and _matches(self.exclude_modules, module):
            return False
        if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.modules_to_save):
            return False
        if not self.layers_to_transform:
            return True
        if isinstance(self.target_modules, tuple) and module in self.target_modules:
            return True
        before = "|".join(rf"(?:^|.*?\.){name}" for name in self.layers_pattern if name) or r".*?\.[^.]*"
        layer = re.match(rf"(?:{before})\.(?P<number>\d+)\.", module)
        return layer is not None and int(layer["number"]) in self.layers_to_transform

    def whole(self, modules: Sequence[str]) -> list[str]:
        """The modules that the adapter holds whole."""
        return [name for name in modules if name.endswith(self.modules_to_save)] if self.modules_to_save else []

    def rank(self, module: str) -> int:
        """The rank of the change of a module's weight."""
        return _first_match(self.rank_pattern, module, self.r)

    def scaling(self, module: str) -> float:
        """The factor of the product of a module's two matrices."""
        alpha, rank = _first_match(self.alpha_pattern, module, self.lora_alpha), self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _matches(pattern: str | tuple[str, ...], name: str) -> bool:
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return any(name == end or name.endswith(f".{end}") for end in pattern)


def _first_match(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_texts_or_one(value: object) -> bool:
    return isinstance(value, str) or _are_texts(value)


def _are_layers(value: object) -> bool:
    return all(type(item) is int for item in (value if isinstance(value, list) else [value]))


def _is_pattern(each: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(each(item) for item in value.values())


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


_VALUES: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("base_model_name_or_path", "revision", "task_type"), (_is_text, "a text")),
    **dict.fromkeys(("use_rslora", "use_dora", "lora_bias"), (_is_flag, "true or false")),
    **dict.fromkeys(
        ("target_modules", "exclude_modules", "layers_pattern"),
        (_are_texts_or_one, "the names of modules, or a regular expression for them"),
    ),
    "r": (_is_rank, "a whole number above 0"),
    "lora_alpha": (_is_number, "a number"),
    "layers_to_transform": (_are_layers, "the numbers of layers"),
    "rank_pattern": (_is_pattern(_is_rank), "whole numbers above 0 by names"),
    "alpha_pattern": (_is_pattern(_is_number), "numbers by names"),
    "bias": (lambda value: value in ("none", "all", "lora_only"), '"none", "all" or "lora_only"'),
    "modules_to_save": (_are_texts, "the names of modules"),
}
"""What each setting may be, and the words for it."""
