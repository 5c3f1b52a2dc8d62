"""Finds a checkpoint: a file, a directory or a repository on the Hub."""

import contextlib
import dataclasses
import re
from collections.abc import Generator
from os import PathLike
from pathlib import Path
from typing import Literal

from ..config import TimesformerConfig
from ..errors import CheckpointError
from ..presets import published_sampling_rate
from ..support.progress import say
from ..video.processor_files import find_processor_files
from .adapter_config import ADAPTER_CONFIG, AdapterConfig
from .adapters import ADAPTER_WEIGHTS, adapter_weights, find_adapter
from .hub import HubOptions, download
from .huggingface import WEIGHTS_FILES, find_weights
from .orbax_directory import PARAMS, is_converted
from .trainer_directory import model_in_trainer_directory, require_merged
from .training_run import find_training_checkpoint

SHIPPED = Path(__file__).parents[1] / "models"
"""The directory of the checkpoints that come with the package, such as motion-tiny."""

Layout = Literal["weights file", "converted directory", "training run"]


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint on this machine.

    Attributes:
        layout: how the weights are kept. formats.py tells what a weights file holds once it is open.
        weights: the weights file or its shard index, the converted directory, the training run's checkpoint,
        directory: where config.json and the processor's settings are.
        name: the name that the user gave.
    """

    layout: Layout
    weights: Path
    directory: Path
    name: str

    @property
    def processor_file(self) -> Path | None:
        """The processor's settings, where the checkpoint has them, or else the Trainer's directory that it is in."""
        in_trainer = re.fullmatch(r"checkpoint-\d+", self.directory.name) is not None
        places = [self.directory, self.directory.parent] if in_trainer else [self.directory]
        return next((file for place in places for file in find_processor_files(place)), None)

    def config(self) -> TimesformerConfig:
        """The checkpoint's config.json; for a published model with the sampling it was trained with.

        Raises:
            CheckpointError: the file is missing.
            ConfigError: no model can have this config.
        """
        file = self.directory / "config.json"
        if not file.is_file():
            raise CheckpointError(f"{self.weights} has no config.json beside it that says which model it is.")
        config = TimesformerConfig.from_json_file(file)
        if config.sampling_rate is None:
            config = config.replace(sampling_rate=published_sampling_rate(self.name))
        if self.layout == "training run":  # training is with cross-entropy, whatever its start was trained for
            config = config.replace(problem_type="single_label_classification")
        return config


@dataclasses.dataclass(frozen=True)
class AdapterSource(Source):
    """A PEFT adapter on this machine, whose weights are merged into those of another checkpoint.

    Attributes:
        base: that checkpoint.
    """

    base: Source

    @property
    def processor_file(self) -> Path | None:
        """The processor's settings, where the adapter or its base has them."""
        return self.own_processor_file or self.base.processor_file

    @property
    def own_processor_file(self) -> Path | None:
        """Those of the adapter, with which it was trained."""
        return super().processor_file


def locate(
    source: str | PathLike[str], options: HubOptions | None = None, base: str | PathLike[str] | None = None
) -> Source:
    """Finds a checkpoint: a file, a directory, one that comes with the package, or a Hub id, which is downloaded.

    Args:
        source: its name.
        options: how to reach the Hub.
        base: the model that a PEFT adapter was trained on; None is the one that the adapter names.

    Raises:
        CheckpointError: there is nothing of this name, or nothing in it that can be read.
    """
    name, options = str(source), options or HubOptions()
    with _naming(name):
        path = _with_model(_find(Path(source).expanduser(), name, options))
        adapter = find_adapter(path) or _only_adapter_in(path, name)
        if adapter is not None:
            return _with_base(adapter, name, options, base)
        if base is not None:
            raise CheckpointError(f"{name} is no PEFT adapter, so there is no base to give with it.")
        if path.is_file() and find_adapter(path.parent) is not None:
            say(f"{name}: the adapter beside it is not merged into it; give {path.parent} to have it merged.")
        lone = next((file for file in ADAPTER_WEIGHTS if (path / file).is_file()), None)
        if lone is not None:
            message = f"{path / lone} is an adapter's, and the {ADAPTER_CONFIG} that says how to merge it is not there"
            if not _holds_model(path):
                raise CheckpointError(f"{message}; copy it, too.")
            say(f"{message}: it is left alone.")
        return _locate(path, name)


@contextlib.contextmanager
def _naming(name: str) -> Generator[None]:
    """Turns what the file system raises into an error that names the checkpoint."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # no permission, a name too long, an unknown user's home
        raise CheckpointError(f"{name} can't be read: {getattr(error, 'strerror', None) or error}.") from None


def _find(path: Path, name: str, options: HubOptions) -> Path:
    """The file or directory of a name."""
    if not path.exists() and re.fullmatch(r"[\w-]+", name) and (SHIPPED / name).is_dir():
        return SHIPPED / name
    if path.exists():
        return path
    is_file_name = path.suffix in (".safetensors", ".bin", ".pyth", ".pth", ".pt", ".ckpt")
    # Ids without an owner are those of the Hub's first models alone, of which none is a TimeSformer or a ViT.
    if is_file_name or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise CheckpointError(
            f"{name} does not exist; give a checkpoint file, a directory or a Hub id of the form owner/name."
        )
    return download(name, options)


def _with_model(path: Path) -> Path:
    """The directory, in that of a Trainer, whose model is taken; any other path as it is."""
    return model_in_trainer_directory(path) if path.is_dir() and not is_converted(path) else path


def _locate(path: Path, name: str) -> Source:
    """The checkpoint in a file or a directory, whatever adapter is beside it."""
    if not path.is_dir():
        require_merged(path)
        return Source("weights file", path, path.parent, name)
    training = find_training_checkpoint(path)
    if training is not None:
        return Source("training run", *training, name)
    if is_converted(path):
        return Source("converted directory", path, path, name)
    weights = find_weights(path)
    if weights is None:
        require_merged(path)
        raise CheckpointError(
            f"{path} holds no checkpoint: none of {', '.join(WEIGHTS_FILES)} and no {PARAMS}/ directory; give a "
            "weights file of another name itself."
        )
    return Source("weights file", weights, path, name)


def _holds_model(path: Path) -> bool:
    return find_weights(path) is not None or is_converted(path) or find_training_checkpoint(path) is not None


def _only_adapter_in(path: Path, name: str) -> Path | None:
    """The adapter in a sub-directory, where PEFT saves those with a name, of a directory without any other weights.

    Raises:
        CheckpointError: there are several.
    """
    if not path.is_dir() or _holds_model(path):
        return None
    found = sorted(file.parent for file in path.glob(f"*/{ADAPTER_CONFIG}"))
    if len(found) > 1:
        names = ", ".join(adapter.name for adapter in found[:8])
        raise CheckpointError(f"{name} holds {len(found)} adapters, {names}; give one of these directories.")
    if found:
        say(f"{name}: the adapter in it is {found[0].name}.")
    return found[0] if found else None


def _with_base(adapter: Path, name: str, options: HubOptions, base: str | PathLike[str] | None) -> AdapterSource:
    """An adapter with the model that it is merged into: the one that is given, that it names, or that is beside it.

    Transformers takes the one that the adapter names, too, and leaves other weights beside the adapter alone.
    """
    config, weights = AdapterConfig.from_json_file(adapter / ADAPTER_CONFIG), adapter_weights(adapter)
    further = sorted(file.parent.name for file in adapter.glob(f"*/{ADAPTER_CONFIG}"))
    further = [directory for directory in further if not re.fullmatch(r"checkpoint-\d+", directory)]
    if further:
        say(f"{name}: of its adapters the one in {adapter} is taken, and not {', '.join(further[:8])}.")
    named = config.base_model_name_or_path
    wanted = named if base is None else str(base)
    if not wanted or wanted == name:
        if not _holds_model(adapter):
            raise CheckpointError(f"{config.file} does not name the model that the adapter is for; {_GIVE_BASE}.")
        found, wanted = adapter, name
    else:
        beside = adapter / wanted
        local = Path(wanted).expanduser()
        options = dataclasses.replace(options, revision=config.revision if wanted == named else None)
        try:
            is_beside = base is None and not local.exists() and beside.exists()
            found = _with_model(beside if is_beside else _find(local, wanted, options))
        except CheckpointError as error:
            if base is not None:
                raise
            raise CheckpointError(
                f"{name} is an adapter for {wanted}, which is not found ({str(error).rstrip('.')}); {_GIVE_BASE}."
            ) from None
    if find_adapter(found) is not None and not _holds_model(found):
        raise CheckpointError(f"{name} is an adapter, and its base {wanted} another; merge that one first.")
    if _holds_model(adapter) and adapter.resolve() not in (found.resolve(), found.resolve().parent):
        say(f"{name}: the adapter is merged into {wanted}; the weights beside it are not used.")
    return AdapterSource("weights file", weights, adapter, name, _locate(found, wanted))


_GIVE_BASE = "give the model that it is for with --base (base= in Python)"
