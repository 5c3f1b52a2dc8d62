"""The recipe of a training run: everything that decides what comes out of it, and those of the paper, by name.

Light to import: the command line shows it before anything else is loaded.
"""

import dataclasses
from typing import Any, Literal

from .. import presets
from ..config import AttentionOrder, AttentionType, PositionEmbeddingType, Remat, TimesformerConfig
from ..data.config import Augmentation, DataConfig
from ..errors import ConfigError
from ..support.dtypes import DTypeName
from ..support.mesh_config import MeshConfig
from ..support.ranges import COUNT, DECAY, NOT_NEGATIVE, POSITIVE, SHARE, Range, require_in_range


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which model is trained, what it starts from and how it is computed.

    Attributes:
        checkpoint: what to start from: a TimeSformer or an image ViT of any format, or a Hub id; random weights when
            not given.
        base: the checkpoint that a PEFT adapter is merged into, where it is not the one that the adapter names.
        processor: a processor file, or a directory with one, instead of the checkpoint's own preprocessing.
        architecture: a published model's (such as base-k400) for a start from random weights.
        attention_type: scheme of attention; when not given that of the checkpoint or architecture, as for those below.
        attention_order: of the steps of divided attention.
        position_embedding_type: what is added to patches: embeddings of space and time, of space, or none.
        num_frames: frames of a clip.
        image_size: pixels, a side of the crop; the preprocessing is resized, too.
        sampling_rate: frames from one sampled frame to the next in a video at 30 frames a second; "segments" takes one
            frame from each of `num_frames` equal parts.
        patch_size: pixels, a side of a patch.
        hidden_size: width of a token.
        num_hidden_layers: encoder layers.
        num_attention_heads: heads of every attention.
        intermediate_size: width inside the MLP.
        initializer_range: standard deviation of newly made weights.
        time_initializer_range: standard deviation of new time embeddings and of the output projections of attention
            over time, width or windows. They start at zero when it is 0, which suits a start from an image model; with
            random weights zero delays that the model learns the order of frames.
        drop_path_rate: stochastic depth of the last layer; grows linearly from 0 at the first.
        dropout: after the embeddings and every dense layer but qkv.
        attention_dropout: of attention probabilities.
        dtype: of the computation. Parameters, loss and optimizer state are float32 (float64 with float64).
        remat: what the backward pass computes again instead of keeping it: nothing; all but the results of dense
            layers; whole layers; or whole layers, one clip after the other (on one device, with the least memory).
    """

    checkpoint: str | None = None
    base: str | None = None
    processor: str | None = None
    architecture: str = "base-k400"
    attention_type: AttentionType | None = None
    attention_order: AttentionOrder | None = None
    position_embedding_type: PositionEmbeddingType | None = None
    num_frames: int | None = None
    image_size: int | None = None
    sampling_rate: float | Literal["segments"] | None = None
    patch_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    initializer_range: float | None = None
    time_initializer_range: float = 0.0
    drop_path_rate: float = 0.1
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: DTypeName = "float32"
    remat: Remat = "none"

    def __post_init__(self) -> None:
        require_in_range(
            self,
            "model.",
            num_frames=COUNT,
            image_size=COUNT,
            patch_size=COUNT,
            hidden_size=COUNT,
            num_hidden_layers=COUNT,
            num_attention_heads=COUNT,
            intermediate_size=COUNT,
            initializer_range=NOT_NEGATIVE,
            time_initializer_range=NOT_NEGATIVE,
            drop_path_rate=DECAY,
            dropout=DECAY,
            attention_dropout=DECAY,
        )
        if self.sampling_rate != "segments":
            require_in_range(self, "model.", sampling_rate=POSITIVE)

    def overrides(self) -> dict[str, Any]:
        """Fields of the model's config that these options set."""
        names = {field.name for field in dataclasses.fields(TimesformerConfig)}
        fields = {
            name: value for name, value in dataclasses.asdict(self).items() if name in names and value is not None
        }
        return fields | {"hidden_dropout_prob": self.dropout, "attention_probs_dropout_prob": self.attention_dropout}


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The optimizer.

    Attributes:
        kind: stochastic gradient descent, or Adam with decoupled weight decay.
        learning_rate: the highest of the schedule.
        weight_decay: share of the learning rate by which weights shrink; for SGD part of the gradient, as in PyTorch.
        decay_all: whether biases, norms, CLS and embeddings decay, too.
        momentum: of SGD.
        nesterov: whether the momentum of SGD is Nesterov's.
        beta1: decay of AdamW's mean gradient.
        beta2: decay of AdamW's mean squared gradient.
        epsilon: added to AdamW's denominator.
        layer_decay: factor of the learning rate from each layer to the one below it; with 1 all layers have the same.
        clip_norm: largest norm of the whole gradient; unlimited when not given.
        ema_decay: of the exponential moving average of the parameters, which is then evaluated and exported; no
            average is kept when not given.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.005
    weight_decay: float = 1e-4
    decay_all: bool = True
    momentum: float = 0.9
    nesterov: bool = True
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    layer_decay: float = 1.0
    clip_norm: float | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        require_in_range(
            self,
            "optimizer.",
            learning_rate=POSITIVE,
            weight_decay=NOT_NEGATIVE,
            momentum=DECAY,
            beta1=DECAY,
            beta2=DECAY,
            epsilon=POSITIVE,
            layer_decay=SHARE,
            clip_norm=POSITIVE,
            ema_decay=DECAY,
        )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate of each step, as a multiple of its highest.

    Attributes:
        kind: falling at milestones, along half a cosine to `final` at the last step, or constant.
        warmup_epochs: length of a linear rise from `warmup_start`; milestones count from the first step all the same.
        warmup_start: multiple at the first step of the warm-up.
        milestones: epochs at which the rate falls.
        factor: by which the rate is multiplied at each milestone.
        final: multiple at the end of the cosine.
    """

    kind: Literal["milestones", "cosine", "constant"] = "milestones"
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    milestones: tuple[float, ...] = (11, 14)
    factor: float = 0.1
    final: float = 0.0

    def __post_init__(self) -> None:
        require_in_range(
            self,
            "schedule.",
            warmup_epochs=NOT_NEGATIVE,
            warmup_start=SHARE,
            milestones=NOT_NEGATIVE,
            factor=SHARE,
            final=SHARE,
        )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"schedule.milestones are {self.milestones}: each must be later than the one before.")


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """When the state of a run is saved and validated, and which checkpoints are kept.

    Attributes:
        every: steps from one checkpoint to the next; each epoch when not given. The last step always has one.
        keep: how many of the last ones are kept, beside the best by validation accuracy.
        validate_every: epochs from one validation to the next, where there are validation videos.
    """

    every: int | None = None
    keep: int = 2
    validate_every: float = 1.0

    def __post_init__(self) -> None:
        require_in_range(self, "checkpoints.", every=COUNT, keep=COUNT, validate_every=POSITIVE)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        data: the videos.
        model: the model.
        optimizer: the optimizer.
        schedule: of the learning rate.
        checkpoints: when the state is saved and validated.
        mesh: how the devices share the work.
        batch_size: clips in one step of the optimizer, over all devices.
        accumulation: parts in which the gradient of a batch is computed, one after the other, to save memory.
        epochs: passes through the training videos.
        steps: of the optimizer; take the place of `epochs` where given.
        seed: of everything random.
        log_every: steps from one line of the log, and of performance.jsonl, to the next.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    checkpoints: Checkpointing = dataclasses.field(default_factory=Checkpointing)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    batch_size: int = 64
    accumulation: int = 1
    epochs: float = 15
    steps: int | None = None
    seed: int = 0
    log_every: int = 10

    def __post_init__(self) -> None:
        require_in_range(
            self,
            batch_size=COUNT,
            accumulation=COUNT,
            epochs=POSITIVE,
            steps=COUNT,
            seed=Range(0, 2**32 - 1, whole=True),  # of a larger one JAX would take the last 32 bits
            log_every=COUNT,
        )
        if self.batch_size % self.accumulation:
            raise ConfigError(f"accumulation {self.accumulation} must divide batch_size {self.batch_size}.")


def total_steps(config: TrainConfig, steps_per_epoch: float) -> int:
    """Steps of the optimizer in a run."""
    return config.steps or max(1, round(config.epochs * steps_per_epoch))


IMAGENET_VIT = "google/vit-base-patch16-224-in21k"
"""The image model that the paper's training starts from."""


def _paper(architecture: str) -> TrainConfig:
    """The recipe of the paper's code for one of its models (section 4 of the paper, and its configs)."""
    published = presets.PRESETS[architecture]
    segments = published["sampling_rate"] == "segments"
    size = published.get("image_size", 224)
    return TrainConfig(
        data=DataConfig(
            augmentation=Augmentation(
                short_side=(448, 512) if size == 448 else (256, 320),
                short_side_sampling="scale" if segments else "size",
                flip=0.0 if segments else 0.5,
            )
        ),
        model=ModelOptions(
            checkpoint=IMAGENET_VIT,
            architecture=architecture,
            attention_type="divided_space_time",
            num_frames=published.get("num_frames", 8),
            image_size=size,
            sampling_rate=published["sampling_rate"],
        ),
    )


RECIPES: dict[str, TrainConfig] = {
    name: _paper(name) for name in presets.PRESETS if not name.startswith("howto100m")
} | {
    "finetune": TrainConfig(
        model=ModelOptions(checkpoint="facebook/timesformer-base-finetuned-k400"),
        optimizer=Optimizer(
            kind="adamw", learning_rate=1e-4, weight_decay=0.05, decay_all=False, layer_decay=0.75, clip_norm=1.0
        ),
        schedule=Schedule(kind="cosine", warmup_epochs=1),
        batch_size=16,
        epochs=10,
    ),
    # Videos of data/motion.py, a tiny model, two minutes on two cores. A mirrored clip would be of another class.
    "motion": TrainConfig(
        data=DataConfig(workers=0, augmentation=Augmentation(short_side=(32, 32), flip=0.0)),
        model=ModelOptions(
            attention_type="divided_space_time",
            num_frames=8,
            image_size=32,
            sampling_rate=3.0,
            patch_size=8,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=256,
            initializer_range=0.25,
            time_initializer_range=0.25,
            drop_path_rate=0.0,
        ),
        optimizer=Optimizer(
            kind="adamw", learning_rate=2e-3, weight_decay=0.05, decay_all=False, beta2=0.99, clip_norm=1.0
        ),
        schedule=Schedule(kind="cosine", warmup_epochs=0.5),
        batch_size=16,
        steps=800,
        log_every=50,
    ),
}
"""The paper's models on Kinetics-400, Kinetics-600 and Something-Something V2, fine-tuning, and the demo."""
