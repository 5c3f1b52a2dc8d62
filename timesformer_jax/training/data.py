"""What training and evaluation read: the settings, and the two streams of clips that come of them.

    batches = training_batches(config, clip=ClipShape(8, 224, 224, 32), batch_size=64, seed=0, bad_list=run / "bad.txt")
    batch = next(batches)   # {"frames": uint8 (b, t, h, w, 3), "labels": int32 (b,), "ids": int64 (b,)}

The batch of step k is a function of the settings, the seed and k alone, whatever the numbers of worker processes and
hosts, so that a run that was stopped goes on with the batches that it would have had. See docs/data.md.
"""

import dataclasses
import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .evaluation_clips import EvaluationClips
    from .training_batches import TrainingBatches


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


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which videos to train and evaluate on, and how they are read.

    Attributes:
        train: training videos: a list, a JSON file, a folder of class folders, or a folder of packed shards.
        validation: the same for evaluation.
        root: folder that the paths in a list are relative to; when not given the folder of the list.
        classes: file of class names, one a line or JSON, for lists with class numbers (or to fix the order of names).
        workers: processes that decode videos; 0 decodes in threads of this one. One for each core when not given.
        prefetch: clips that each worker holds ready.
        max_bad_fraction: share of the videos that may be undecodable before training stops.
        augmentation: of training clips.
    """

    train: str | None = None
    validation: str | None = None
    root: str | None = None
    classes: str | None = None
    workers: int | None = None
    prefetch: int = 4
    max_bad_fraction: float = 0.05
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)


@dataclasses.dataclass(frozen=True)
class ClipShape:
    """What a clip looks like to the model.

    Attributes:
        num_frames: frames.
        height: of the crop in pixels.
        width: of the crop in pixels.
        sampling_rate: frames from one sampled frame to the next in a video at 30 frames a second; "segments" takes
            one frame from each of `num_frames` equal parts of the video.
    """

    num_frames: int
    height: int
    width: int
    sampling_rate: float | Literal["segments"]


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The classes of a data set, in the order of the labels.

    Raises:
        DataError: if the list can't be used.
    """
    from .sources import read_videos

    source = config.train or config.validation
    return read_videos(source, root=config.root, classes=config.classes).classes


def data_fingerprints(config: DataConfig) -> dict[str, str]:
    """What tells the training and validation videos from others: of names, labels and classes, not of where they are.

    Raises:
        DataError: if the lists can't be used.
    """
    from .sources import read_videos

    training = read_videos(config.train, root=config.root, classes=config.classes)
    prints = {"train": training.fingerprint}
    if config.validation is not None:
        validation = read_videos(config.validation, root=config.root, classes=config.classes, known=training.classes)
        prints["validation"] = validation.fingerprint
    return prints


def training_batches(
    config: DataConfig,
    *,
    clip: ClipShape,
    batch_size: int,
    seed: int,
    bad_list: str | os.PathLike[str],
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> "TrainingBatches":
    """Endless batches of augmented training clips.

    Args:
        config: which videos, and how to augment them.
        clip: frames and size of the clips.
        batch_size: clips in a step, over all processes.
        seed: of the order and of everything random in a clip.
        bad_list: file that videos which can't be decoded are listed in, one a line. With several processes each has
            its own, with its number before the suffix.
        start_step: the step to begin with.
        process_index: which part of each batch to give.
        process_count: in how many equal parts a batch is cut.

    Raises:
        DataError: if the videos can't be used, or settings make no batches.
    """
    from .sources import read_videos
    from .training_batches import TrainingBatches

    videos = read_videos(config.train, root=config.root, classes=config.classes)
    return TrainingBatches(
        config,
        videos,
        clip=clip,
        batch_size=batch_size,
        seed=seed,
        bad_list=bad_list,
        start_step=start_step,
        process_index=process_index,
        process_count=process_count,
    )


def evaluation_clips(
    config: DataConfig,
    *,
    clip: ClipShape,
    batch_size: int,
    clips: int = 1,
    crops: int = 3,
    position: Literal["first", "middle"] = "first",
    bad_list: str | os.PathLike[str] | None = None,
    process_index: int = 0,
    process_count: int = 1,
    start: int = 0,
) -> "EvaluationClips":
    """The views of every validation video, once and in order.

    Args:
        config: which videos.
        clip: frames and size of the clips.
        batch_size: videos in a batch, over all processes.
        clips: clips of each video.
        crops: crops of each clip: 1 in the centre, 3 along the long side.
        position: where a single clip lies: "first" as the original's code has it, "middle" as the paper says. Several
            clips begin at the start of (or in the middle of) equal parts of the room there is.
        bad_list: file that videos which can't be decoded are listed in.
        process_index: which part of each batch to give.
        process_count: in how many equal parts a batch is cut.
        start: the batch to begin with.

    Returns:
        An iterator of {"frames": uint8 (b, clips * crops, t, h, w, 3), "labels": int32 (b,), "ids": int64 (b,),
        "valid": bool (b,)}. Every process gets the same number of batches, of equal size; "valid" is False (and "ids"
        -1) in the rows that fill up the last, and in those of videos that can't be decoded, whose "ids" say which.

    Raises:
        DataError: if the videos can't be used, or settings make no views.
    """
    from .evaluation_clips import EvaluationClips
    from .sources import read_videos

    names = class_names(config) if config.train else None
    videos = read_videos(config.validation, root=config.root, classes=config.classes, known=names)
    return EvaluationClips(
        config,
        videos,
        clip=clip,
        batch_size=batch_size,
        clips=clips,
        crops=crops,
        position=position,
        bad_list=bad_list,
        process_index=process_index,
        process_count=process_count,
        start=start,
    )
