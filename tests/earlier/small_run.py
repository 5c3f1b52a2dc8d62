"""The training run beside this file: its videos, which are made anew whenever they are needed, and its recipe.

There is dropout of attention probabilities and of branches, but none of tokens: today's code draws other masks after
the output projection of attention (see CHANGELOG.md).
"""

from pathlib import Path

import numpy as np
from PIL import Image

from timesformer_jax.training.recipe import (
    Augmentation,
    Checkpointing,
    DataConfig,
    ModelOptions,
    Optimizer,
    Schedule,
    TrainConfig,
)

CLASSES, TRAINING, VALIDATION, FRAMES = 2, 4, 3, 7


def make_pictures(directory: Path) -> None:
    """Folders of class folders, `train` and `validation`, of videos as PNG files.

    These keep every pixel, whatever version writes them, and whole numbers alone decide what the pixels are.
    """
    t, y, x, c = np.ogrid[:FRAMES, :10, :13, :3]
    for split, count in (("train", TRAINING), ("validation", VALIDATION)):
        for label in range(CLASSES):
            for number in range(count):
                seed = 5 * number + 3 * label + (split == "validation")
                # Bars and spots that move, each class its own way.
                frames = (x * (17 + seed) + (2 * label - 1) * 31 * t + y * (40 * c + seed) + seed * y * x) % 256
                folder = directory / split / f"class {label}" / f"video {number}"
                folder.mkdir(parents=True)
                for i, frame in enumerate(frames.astype(np.uint8)):
                    Image.fromarray(frame).save(folder / f"{i}.png")


def recipe(videos: str) -> TrainConfig:
    """The settings that the run was started with; the others were left at their defaults."""
    return TrainConfig(
        data=DataConfig(
            train=f"{videos}/train",
            validation=f"{videos}/validation",
            workers=0,
            augmentation=Augmentation(short_side=(9, 12), erasing=0.5, mixup=0.4, cutmix=0.7, label_smoothing=0.1),
        ),
        model=ModelOptions(
            num_frames=3,
            image_size=8,
            patch_size=4,
            sampling_rate=2,
            hidden_size=6,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=10,
            initializer_range=0.5,
            time_initializer_range=0.5,
            drop_path_rate=0.3,
            attention_dropout=0.2,
        ),
        optimizer=Optimizer(
            kind="adamw", learning_rate=1e-2, weight_decay=0.05, clip_norm=1.0, layer_decay=0.9, ema_decay=0.7
        ),
        schedule=Schedule(kind="cosine", warmup_epochs=1),
        checkpoints=Checkpointing(keep=1, validate_every=2.5),
        batch_size=4,
        accumulation=2,
        steps=8,
        seed=11,
        log_every=2,
    )
