"""PEFT adapters: finds them, and merges LoRA into the model that it was trained on."""

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import CheckpointError
from .adapter_config import ADAPTER_CONFIG, AdapterConfig
from .orbax_directory import OrbaxParams
from .prefixes import without_wrappers
from .stored_model import FLOAT_DTYPES
from .tensors import Shapes, Tensors, open_tensors
from .weights_file import WeightsFile

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Where PEFT keeps an adapter's weights, in the order in which it looks for them."""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An opened LoRA adapter.

    Attributes:
        directory: where its files are.
        name: what the user called it.
        base_name: what the model that it is merged into is called.
        config: its settings.
        file: the weights.
        sha256: the fingerprint of that file.
        tensors: its tensors, by their names in the model without what PEFT adds ("base_model.model.", "base_layer.").
    """

    directory: Path
    name: str
    base_name: str
    config: AdapterConfig
    file: Path
    sha256: str
    tensors: Tensors

    @property
    def shapes(self) -> Shapes:
        """Shape and type of each tensor."""
        return {name: (tensor.shape, tensor.dtype) for name, tensor in self.tensors.items()}

    @property
    def facts(self) -> dict[str, str]:
        """What the adapter is, in words."""
        count = sum(math.prod(tensor.shape) for tensor in self.tensors.values())
        kind = "DoRA" if self.config.use_dora else "LoRA"
        return {
            "adapter": f"{kind} of rank {self.config.r}, {count:,} parameters in {self.file.name}",
            "base": self.base_name,
        }

    @property
    def record(self) -> dict[str, str]:
        """What config.json says of the adapter once it is merged; local paths are reduced to their last part."""
        names = {"adapter": self.name, "base": self.base_name}
        names = {key: Path(name).absolute().name if Path(name).exists() else name for key, name in names.items()}
        return {**names, "sha256": self.sha256}


@dataclasses.dataclass(frozen=True)
class AdapterFiles:
    """The opened files of an adapter and of the model that it is merged into.

    Attributes:
        adapter: the adapter.
        base: the files of the model.
    """

    adapter: Adapter
    base: WeightsFile | OrbaxParams

    @property
    def shapes(self) -> Shapes:
        """Shape and type of each tensor of the base, and of each that the adapter holds whole."""
        whole = {name: stored for name, stored in self.adapter.shapes.items() if ".lora_" not in name}
        return {**self.base.shapes, **whole}

    @property
    def facts(self) -> dict[str, str]:
        """What is known of both, in words."""
        return {**self.base.facts, **self.adapter.facts}


def find_adapter(path: Path) -> Path | None:
    """The directory of the adapter that a path is, or is a file of; None for any other path."""
    directory = path.parent if path.name in (ADAPTER_CONFIG, *ADAPTER_WEIGHTS) else path
    return directory if (directory / ADAPTER_CONFIG).is_file() else None


def adapter_weights(directory: Path) -> Path:
    """The file with an adapter's weights.

    Raises:
        CheckpointError: there is none.
    """
    found = next((directory / name for name in ADAPTER_WEIGHTS if (directory / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{directory} has an {ADAPTER_CONFIG} and none of {', '.join(ADAPTER_WEIGHTS)}.")
    return found


def require_no_adapter_layers(path: Path, names: Iterable[str]) -> None:
    """Checks that a weights file is not the state of a model that PEFT's layers are still in.

    Raises:
        CheckpointError: it is; nothing in it tells how much they count.
    """
    if any(".lora_A." in name or ".base_layer." in name for name in names):
        raise CheckpointError(
            f"{path} holds the layers of a PEFT adapter, which nothing in it says how to merge; save the adapter with "
            "PEFT's save_pretrained, or the merged model (model.merge_and_unload())."
        )


def open_adapter(directory: Path, name: str, base_name: str) -> Adapter:
    """Opens an adapter's files and reads none of its tensors.

    Args:
        directory: where they are.
        name: what the user called the adapter.
        base_name: what the model that it is merged into is called.

    Raises:
        CheckpointError: a file is missing or damaged, or the adapter is not one that can be merged.
    """
    config, file = AdapterConfig.from_json_file(directory / ADAPTER_CONFIG), adapter_weights(directory)
    tensors: Tensors = {}
    for stored, tensor in open_tensors(file).items():
        plain = without_wrappers(stored).removeprefix("base_model.model.")
        if config.bias == "all" and re.search(r"\.(original_module|modules_to_save)\.bias$", plain):
            continue  # PEFT saves these biases of modules that are held whole once more
        plain = re.sub(r"\.lora_magnitude_vector\.weight$", ".lora_magnitude_vector", plain)
        plain = re.sub(r"\.base_layer\.(weight|bias)$", r".\1", plain)
        if plain in tensors:
            raise CheckpointError(f"{file} holds {plain} twice.")
        if tensor.dtype not in FLOAT_DTYPES:
            raise CheckpointError(f"{file}: {stored} is {tensor.dtype}, weights are {', '.join(FLOAT_DTYPES)}.")
        tensors[plain] = tensor
    with file.open("rb") as contents:
        sha256 = hashlib.file_digest(contents, "sha256").hexdigest()
    return Adapter(directory, name, base_name, config, file, sha256, tensors)


def require_fit(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Checks that an adapter holds exactly the tensors that its settings and the base ask for.

    PEFT passes over tensors that are missing or unknown; the answers are then the base's, in part or altogether.

    Args:
        adapter: the adapter.
        shapes: the shapes of the merged model's tensors, by the names that PEFT saw.

    Returns:
        The modules that LoRA changes.
    """
    config, found = adapter.config, adapter.shapes
    modules = _modules(shapes)
    linear = [module for module in modules if len(shapes.get(f"{module}.weight", ())) == 2]
    changed = config.targets(modules, linear)
    odd = [module for module in changed if len(shapes.get(f"{module}.weight", ())) not in (2, 4)]
    if odd:
        raise CheckpointError(f"{config.file} targets {odd[0]}, which is no linear layer and no convolution.")
    if not changed:
        raise CheckpointError(
            f"{config.file}: the target_modules {config.target_modules!r} are no modules of the base "
            f"{adapter.base_name}; give its own base with --base (base= in Python)."
        )
    # Whatever is named as a tensor of the model replaces it.
    expected = {name: shapes[name] for name in found if name in shapes}
    if "classifier.weight" in found:
        expected |= {name: shapes[name] for name in ("classifier.weight", "classifier.bias") if name in shapes}
    whole = config.whole(modules)
    for module in whole:
        outer = next((name for name in whole if module.startswith(f"{name}.")), None)
        if outer is not None:  # PEFT 0.21 saves other values than it trained, and can't load what it saved
            raise CheckpointError(f"{config.file}: modules_to_save names {outer} and {module} within it; name one.")
        expected |= {name: shape for name, shape in shapes.items() if name.startswith(f"{module}.")}
    if config.bias != "none":
        biases = [f"{module}.bias" for module in (changed if config.bias == "lora_only" else modules)]
        expected |= {name: shapes[name] for name in biases if name in shapes}
    for module in changed:
        expected |= _lora_shapes(config, module, shapes)
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name} is no tensor of the base" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} is {found[name][0]} where {shape} is expected"
        for name, shape in expected.items()
        if name in found and found[name][0] != shape
    ]
    if problems:
        more = f" ({len(problems) - 2} more problems)" if len(problems) > 2 else ""
        raise CheckpointError(
            f"{adapter.name} does not fit its {ADAPTER_CONFIG} and the base {adapter.base_name}: "
            f"{', and '.join(problems[:2])}{more}; give its own base with --base (base= in Python), or save it anew."
        )
    return changed


def _modules(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The modules, of every depth, that hold tensors of these names."""
    modules: dict[str, None] = {}
    for name in shapes:
        parts = name.split(".")[:-1]
        modules |= dict.fromkeys(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return list(modules)


def _lora_shapes(
    config: AdapterConfig, module: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    outputs, *inputs = shapes[f"{module}.weight"]
    rank, ones = config.rank(module), (1,) * (len(inputs) - 1)
    expected: dict[str, tuple[int, ...]] = {
        f"{module}.lora_A.weight": (rank, *inputs),
        f"{module}.lora_B.weight": (outputs, rank, *ones),
    }
    if config.use_dora:
        expected[f"{module}.lora_magnitude_vector"] = (1, outputs, *ones) if ones else (outputs,)
    if config.lora_bias:
        if f"{module}.bias" not in shapes:
            raise CheckpointError(f"{config.file} sets lora_bias, and {module} has no bias that it could be added to.")
        expected[f"{module}.lora_B.bias"] = (outputs,)
    return expected
