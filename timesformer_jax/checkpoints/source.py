"""Finds a checkpoint: a file, a directory or a repository on the Hub."""

import dataclasses
import re
from os import PathLike
from pathlib import Path
from typing import Literal

from ..config import TimesformerConfig
from ..errors import CheckpointError
from ..presets import published_sampling_rate
from .hub import PROCESSOR_FILES, HubOptions, download
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
        weights: the weights file or its shard index, the converted directory, or the training run's checkpoint.
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
        files = (place / name for place in places for name in PROCESSOR_FILES)
        return next((file for file in files if file.is_file()), None)

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
        return config


def locate(source: str | PathLike[str], options: HubOptions | None = None) -> Source:
    """Finds a checkpoint: a file, a directory, one that comes with the package, or a Hub id, which is downloaded.

    Raises:
        CheckpointError: there is nothing of this name, or nothing in it that can be read.
    """
    try:
        return _locate(Path(source).expanduser(), str(source), options or HubOptions())
    except (OSError, RuntimeError) as error:  # no permission, a name too long, an unknown user's home
        raise CheckpointError(f"{source} can't be read: {getattr(error, 'strerror', None) or error}.") from None


def _locate(path: Path, name: str, options: HubOptions) -> Source:
    if not path.exists() and re.fullmatch(r"[\w-]+", name) and (SHIPPED / name).is_dir():
        path = SHIPPED / name
    if not path.exists():
        is_file_name = path.suffix in (".safetensors", ".bin", ".pyth", ".pth", ".pt", ".ckpt")
        # Ids without an owner are those of the Hub's first models alone, of which none is a TimeSformer or a ViT.
        if is_file_name or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
            raise CheckpointError(
                f"{name} does not exist; give a checkpoint file, a directory or a Hub id of the form owner/name."
            )
        path = download(name, options)
    if not path.is_dir():
        require_merged(path)
        return Source("weights file", path, path.parent, name)
    training = find_training_checkpoint(path)
    if training is not None:
        return Source("training run", *training, name)
    if is_converted(path):
        return Source("converted directory", path, path, name)
    path = model_in_trainer_directory(path)
    weights = find_weights(path)
    if weights is None:
        require_merged(path)
        raise CheckpointError(
            f"{path} holds no checkpoint: none of {', '.join(WEIGHTS_FILES)} and no {PARAMS}/ directory; give a "
            "weights file of another name itself."
        )
    return Source("weights file", weights, path, name)
