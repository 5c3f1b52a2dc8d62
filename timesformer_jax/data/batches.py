"""The two streams of clips that training and evaluation read.

    batches = training_batches(config, clip=ClipShape(8, 224, 224, 32), batch_size=64, seed=0, bad_list=run / "bad.txt")
    batch = next(batches)   # {"frames": uint8 (b, t, h, w, 3), "labels": int32 (b,), "ids": int64 (b,)}

The batch of step k is a function of the settings, the seed and k alone, whatever the numbers of worker processes and
hosts, so that a run that was stopped goes on with the batches that it would have had. See docs/data.md.
"""

import os
from typing import Literal

from .config import ClipShape, DataConfig
from .evaluation_clips import EvaluationClips
from .sources import read_videos
from .training_batches import TrainingBatches


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The classes of a data set, in the order of the labels.

    Raises:
        DataError: if the list can't be used.
    """
    source = config.train or config.validation
    return read_videos(source, root=config.root, classes=config.classes).classes


def data_fingerprints(config: DataConfig) -> dict[str, str]:
    """What tells the training and validation videos from others: of names, labels and classes, not of where they are.

    Raises:
        DataError: if the lists can't be used.
    """
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
) -> TrainingBatches:
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
) -> EvaluationClips:
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
