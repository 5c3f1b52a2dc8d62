"""The `timesformer` command, and what all commands share: typed options, one sentence for an error, exit codes."""

import dataclasses
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .errors import TimesformerError, VerificationError, VideoError
from .progress import say, step, track

DTypeName = Literal["float32", "bfloat16", "float64"]


@dataclasses.dataclass(frozen=True)
class Hub:
    """How to reach the Hugging Face Hub.

    Attributes:
        revision: branch, tag or commit.
        token: access token for private and gated repositories; the stored one when not given.
        cache_dir: where downloads are kept.
        offline: use what was downloaded before and never ask the Hub.
    """

    revision: str | None = None
    token: str | None = None
    cache_dir: Path | None = None
    offline: bool = False

    def options(self) -> Any:
        """For the checkpoints' loader."""
        from .checkpoints import HubOptions

        return HubOptions(self.revision, self.token, self.cache_dir, self.offline)


@dataclasses.dataclass(frozen=True)
class ConfigChanges:
    """Fields of the configuration to change, or to tell where a checkpoint does not.

    Attributes:
        attention_type: scheme of attention.
        num_frames: time embeddings are resized.
        image_size: pixels; position embeddings are resized.
        num_labels: a new classifier where it is another number.
        num_attention_heads: of an original checkpoint whose heads are not 64 wide.
        sampling_rate: source frames between sampled ones, at 30 frames per second.
    """

    attention_type: Literal["divided_space_time", "joint_space_time", "space_only"] | None = None
    num_frames: int | None = None
    image_size: int | None = None
    num_labels: int | None = None
    num_attention_heads: int | None = None
    sampling_rate: float | None = None


@dataclasses.dataclass(frozen=True)
class Loading:
    """How a checkpoint is loaded.

    Attributes:
        labels: a file of label names, one a line or JSON, for a checkpoint that has none.
        channel_order: of the frames that an original checkpoint was trained on, where it does not tell.
        resize: how position embeddings are resized; bicubic for a ViT and nearest for a TimeSformer when not given.
        patch_order: how patches were flattened for a ViT whose patch embedding is a linear layer.
        config: fields of the configuration to change.
        hub: how to reach the Hugging Face Hub.
    """

    labels: Path | None = None
    channel_order: Literal["rgb", "bgr"] | None = None
    resize: Literal["nearest", "bicubic"] | None = None
    patch_order: Literal["channels_first", "channels_last"] | None = None
    config: ConfigChanges = dataclasses.field(default_factory=ConfigChanges)
    hub: Hub = dataclasses.field(default_factory=Hub)

    def options(self) -> dict[str, Any]:
        """Arguments of `load_checkpoint`."""
        fields = {name: value for name, value in dataclasses.asdict(self.config).items() if value is not None}
        own = {name: getattr(self, name) for name in ("labels", "channel_order", "resize", "patch_order")}
        return {**own, "hub": self.hub.options(), **fields}


@dataclasses.dataclass(frozen=True)
class Classify:
    """Label videos.

    Exits with 0 when every video was answered, 1 when some could not be read, 2 when none could or the input is bad.

    Attributes:
        videos: video files, or directories of pictures.
        model: a converted or Transformers directory, a weights file, or a Hub id.
        top_k: how many classes to show for each video.
        dtype: of the computation.
        json: print one line of JSON for each video instead of a table.
        loading: how the checkpoint is loaded.
    """

    videos: tyro.conf.Positional[tuple[Path, ...]]
    model: str
    top_k: int = 5
    dtype: DTypeName = "float32"
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    loading: Annotated[Loading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Loading)

    def run(self) -> int:
        """Classifies the videos one by one; a bad one is reported and the others are answered."""
        if not self.videos:
            raise VideoError("no video is given; name at least one file or directory of pictures.")
        if self.top_k < 1:
            raise TimesformerError(f"--top-k must be 1 or more, not {self.top_k}.")
        enable_x64(self.dtype)
        with step(f"loading {self.model}"):
            from .inference import VideoClassifier

            classify = VideoClassifier.from_pretrained(self.model, dtype=self.dtype, **self.loading.options())
        say(f"looking at {classify.sampling}")
        failures = 0
        for video in track(self.videos, "classifying"):
            try:
                predictions = classify(video, top_k=self.top_k)
            except VideoError as error:
                failures += 1
                say(str(error))
                if self.json:
                    print(json.dumps({"video": str(video), "error": str(error)}), flush=True)
                continue
            if self.json:
                rows = [dataclasses.asdict(prediction) for prediction in predictions]
                print(json.dumps({"video": str(video), "predictions": rows}), flush=True)
            else:
                print_predictions(str(video), predictions)
        if failures:
            say(f"{failures} of {len(self.videos)} videos could not be read.")
        return 0 if failures == 0 else 2 if failures == len(self.videos) else 1


@dataclasses.dataclass(frozen=True)
class Sample:
    """Make something to try the commands on: a checkpoint with RANDOM weights, and a short video.

    Attributes:
        directory: where to; gets `checkpoint/` in Transformers' format and `video.mp4`.
        preset: which published model's architecture.
        seed: of the weights.
        overwrite: replace an existing directory.
    """

    directory: tyro.conf.Positional[Path]
    preset: str = "base-k400"
    seed: int = 0
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False

    def run(self) -> int:
        """Writes both, and prints the command that uses them."""
        from .sample import write_sample

        with step(f"making a checkpoint with random weights and a video in {self.directory}"):
            checkpoint, video = write_sample(self.directory, self.preset, seed=self.seed, overwrite=self.overwrite)
        say("The weights are random: the labels mean nothing, but are those that PyTorch would give. Try")
        print(f"timesformer classify {video} --model {checkpoint}")
        return 0


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Say what a checkpoint is, and what would fail, without loading its weights.

    Attributes:
        checkpoint: a file, a directory or a Hub id.
        hub: how to reach the Hugging Face Hub.
    """

    checkpoint: tyro.conf.Positional[str]
    hub: Hub = dataclasses.field(default_factory=Hub)

    def run(self) -> int:
        """Prints the report; exits with 2 when the checkpoint could not be loaded."""
        from .inspection import inspect_checkpoint

        report = inspect_checkpoint(self.checkpoint, hub=self.hub.options())
        print(report)
        return 2 if report.problems else 0


def print_predictions(video: str, predictions: Sequence[Any]) -> None:
    """Prints a table of the classes of one video."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    print(video)
    table = Table("label", "score", "logit")
    for prediction in predictions:
        table.add_row(escape(prediction.label), f"{prediction.score:.4f}", f"{prediction.logit:.4f}")
    Console().print(table)


def enable_x64(dtype: str) -> None:
    """Turns on 64-bit types for a command that asks for them."""
    if dtype == "float64":
        import jax

        jax.config.update("jax_enable_x64", True)


def run_command(command: Callable[[], int]) -> int:
    """Runs a command: whatever a person can put right ends in one sentence on standard error, and an exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports its progress there
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    try:
        return command()
    except TimesformerError as error:
        say(f"error: {error}")
        return 2
    except VerificationError as error:
        say(f"error: {error}")
    except BrokenPipeError:  # whoever read the output, `head` for one, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        say(f"error: {error.filename or 'a file'}: {error.strerror or error}.")
    except MemoryError:
        say("error: there is not enough memory.")
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 1


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the `timesformer` command."""
    commands: Any = {"classify": Classify, "inspect": Inspect, "sample": Sample}
    command = tyro.extras.subcommand_cli_from_dict(
        commands, args=args, prog="timesformer", description="TimeSformer video classification in JAX."
    )
    return run_command(command.run)


if __name__ == "__main__":
    sys.exit(main())
