"""The settings of training and evaluation data: which videos, how they are read, and how clips are augmented."""

import dataclasses
from typing import Literal

from ..errors import ConfigError
from ..support.ranges import COUNT, DECAY, NOT_NEGATIVE, NUMBER, SHARE, Range, require_in_range


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training clips differ from what the files hold.

    Attributes:
        short_side: lowest and highest length in pixels to which the short side is resized before the crop; when not
            given 8/7 and 10/7 of the crop (256 and 320 for 224).
        short_side_sampling: whether the short side is uniform between the two (as for Kinetics), or its inverse (as
            for Something-Something V2).
        flip: probability of a mirrored clip. Something-Something V2 tells left from right: 0 there.
        rand_augment_layers: operations of RandAugment on every clip; 0 leaves it out.
        rand_augment_magnitude: strength of RandAugment from 0 to 10.
        rand_augment_deviation: standard deviation of that strength from one operation to the next.
        erasing: probability that a rectangle of the clip is replaced by noise.
        mixup: parameter of mixup's beta distribution; 0 leaves it out.
        cutmix: parameter of cutmix's beta distribution; 0 leaves it out. Where both are given, each clip gets either.
        mix_probability: share of clips that mixup or cutmix is applied to.
        label_smoothing: share of the target that is spread over all classes.
        repeats: how many times each video stands in a batch, each time augmented anew. An epoch is still one pass
            through the videos, of so many times as many clips.
    """

    short_side: tuple[int, int] | None = None
    short_side_sampling: Literal["size", "scale"] = "size"
    flip: float = 0.5
    rand_augment_layers: int = 0
    rand_augment_magnitude: float = 9.0
    rand_augment_deviation: float = 0.5
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    label_smoothing: float = 0.0
    repeats: int = 1

    def __post_init__(self) -> None:
        require_in_range(
            self,
            "data.augmentation.",
            short_side=COUNT,
            flip=SHARE,
            rand_augment_layers=NUMBER,
            rand_augment_magnitude=Range(0, 10),
            rand_augment_deviation=NOT_NEGATIVE,
            erasing=SHARE,
            mixup=NOT_NEGATIVE,
            cutmix=NOT_NEGATIVE,
            mix_probability=SHARE,
            label_smoothing=DECAY,
            repeats=COUNT,
        )
        if self.short_side is not None and self.short_side[0] > self.short_side[1]:
            raise ConfigError(f"data.augmentation.short_side is {self.short_side}: the lower length comes first.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which videos to train and evaluate on, and how they are read.

    Attributes:
        train: training videos: a list, a JSON file, a folder of class folders, packed shards, WebDataset shards
            ('train-{000..099}.tar'), or a Hugging Face data set (Arrow or Parquet).
        validation: the same for evaluation.
        root: folder that the paths in a list are relative to; when not given the folder of the list.
        classes: file of class names, one a line or JSON, for lists with class numbers (or to fix the order of names).
        train_split: the split whose rows are trained on, where a list has several; `train` when not given.
        validation_split: the split whose rows are evaluated on; when not given `validation` (or `val`), else `test`.
        video_template: what the files are called, by the columns of a list that names no files:
            "{youtube_id}_{time_start:06d}_{time_end:06d}.mp4" for Kinetics. A template without the times means whole
            videos, whose parts are read.
        picture_template: names of the frames in folders of pictures that hold other series beside them, such as
            img_{:05d}.jpg.
        workers: processes that decode videos; 0 decodes in threads of this one. One for each core when not given.
        prefetch: clips that each worker holds ready.
        max_bad_fraction: share of the videos that may be undecodable before training stops.
        augmentation: how training clips are augmented.
    """

    train: str | None = None
    validation: str | None = None
    root: str | None = None
    classes: str | None = None
    train_split: str | None = None
    validation_split: str | None = None
    video_template: str | None = None
    picture_template: str | None = None
    workers: int | None = None
    prefetch: int = 4
    max_bad_fraction: float = 0.05
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        require_in_range(self, "data.", workers=NUMBER, prefetch=COUNT, max_bad_fraction=SHARE)


@dataclasses.dataclass(frozen=True)
class ClipShape:
    """What a clip looks like to the model.

    Attributes:
        num_frames: number of frames.
        height: height of the crop in pixels.
        width: width of the crop in pixels.
        sampling_rate: frames from one sampled frame to the next in a video at 30 frames a second; "segments" takes
            one frame from each of `num_frames` equal parts of the video.
    """

    num_frames: int
    height: int
    width: int
    sampling_rate: float | Literal["segments"]

    @property
    def bytes(self) -> int:
        """Size of its frames, in uint8."""
        return 3 * self.num_frames * self.height * self.width


@dataclasses.dataclass(frozen=True)
class Views:
    """Which views of a video an evaluation averages; the defaults are the paper's three crops of one clip.

    Attributes:
        clips: clips of each video. Several begin at the start of (or in the middle of) equal parts of the room there
            is.
        crops: crops of each clip: 1 in the centre, 3 along its long side.
        position: where a single clip lies: "first" at the start, as the paper's code has it, "middle" as the paper
            says.
        average: whether logits are averaged (as in the paper's code) or probabilities.
    """

    clips: int = 1
    crops: int = 3
    position: Literal["first", "middle"] = "first"
    average: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        require_in_range(self, clips=COUNT, crops=COUNT)
