"""Typed options that commands share."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..config import AttentionOrder, AttentionType, PositionEmbeddingType

if TYPE_CHECKING:
    from ..video.packets import FileStream

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A switch that is off unless named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Options of every command.

    Attributes:
        compilation_cache: directory where compiled programs are kept for the next run, in a folder for each kind of
            CPU; timesformer_jax/compiled in the user's cache directory when not given.
        no_compilation_cache: compile everything anew.
    """

    compilation_cache: tyro.conf.DisallowNone[Path | None] = None
    no_compilation_cache: Flag = False


def stream_of(video: Path, number: int | None) -> "Path | FileStream":
    """Gives a video file's stream of that number; pictures in a directory have none, and stay what they are."""
    from ..video.packets import FileStream

    return video if number is None or video.is_dir() else FileStream(video, number)


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
    offline: Flag = False

    def options(self) -> Any:
        """Gives the options of the checkpoints' loader."""
        from ..checkpoints.hub import HubOptions

        return HubOptions(self.revision, self.token, self.cache_dir, self.offline)


@dataclasses.dataclass(frozen=True)
class ConfigChanges:
    """Fields of the configuration to change, or to give where a checkpoint does not tell them.

    Attributes:
        attention_type: scheme of attention.
        attention_order: order of the steps of divided attention.
        position_embedding_type: which embeddings are added to patches.
        num_frames: frames of a clip; time embeddings are resized.
        image_size: pixels, a side or height and width; position embeddings and the preprocessing are resized.
        num_labels: classes; the classifier is new where it is another number.
        num_attention_heads: heads of an original checkpoint that are not 64 wide.
        sampling_rate: source frames between sampled ones, at 30 frames per second.
    """

    attention_type: AttentionType | None = None
    attention_order: AttentionOrder | None = None
    position_embedding_type: PositionEmbeddingType | None = None
    num_frames: int | None = None
    image_size: int | tuple[int, int] | None = None
    num_labels: int | None = None
    num_attention_heads: int | None = None
    sampling_rate: float | None = None


@dataclasses.dataclass(frozen=True)
class Loading:
    """How a checkpoint is loaded.

    Attributes:
        labels: a file of label names, one a line or JSON, for a checkpoint that has none.
        processor: a processor file, or a directory with one, instead of the checkpoint's own preprocessing.
        channel_order: order in the frames that an original checkpoint was trained on, where it does not tell.
        resize: how position embeddings are resized; bicubic for a ViT and nearest for a TimeSformer when not given.
        patch_order: how patches were flattened for a ViT whose patch embedding is a linear layer.
        training_weights: which weights of a training run, or of a file with both: the moving average or the parameters
            of the last step; the run's average where there is one when not given.
        base: the checkpoint that a PEFT adapter is merged into, where it is not the one that the adapter names.
        config: fields of the configuration to change.
        hub: how to reach the Hugging Face Hub.
    """

    labels: Path | None = None
    processor: Path | None = None
    channel_order: Literal["rgb", "bgr"] | None = None
    resize: Literal["nearest", "bicubic"] | None = None
    patch_order: Literal["channels_first", "channels_last"] | None = None
    training_weights: Literal["ema", "last"] | None = None
    base: str | None = None
    config: ConfigChanges = dataclasses.field(default_factory=ConfigChanges)
    hub: Hub = dataclasses.field(default_factory=Hub)

    def options(self) -> dict[str, Any]:
        """Gives the arguments of `load_checkpoint`."""
        fields = {name: value for name, value in dataclasses.asdict(self.config).items() if value is not None}
        names = ("labels", "processor", "channel_order", "resize", "patch_order", "training_weights", "base")
        own = {name: getattr(self, name) for name in names}
        return {**own, "hub": self.hub.options(), **fields}
