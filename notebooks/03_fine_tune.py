# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tune on a few classes
#
# A checkpoint learns new classes from a folder of videos: training with its curves, evaluation with a confusion
# matrix, and two exports: one for Transformers, one that runs with JAX alone.
#
# The videos are made here: a shape that moves in one of eight directions, grows or shrinks. On a CPU the start is
# `motion-tiny`, which ships with the package and has never seen the last two. On an accelerator with access to the
# Hugging Face Hub it is the published model for Kinetics-400.

# %%
import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

from timesformer_jax import TimesformerForVideoClassification, VideoClassifier
from timesformer_jax.data.config import Augmentation, DataConfig, Views
from timesformer_jax.data.motion import MotionTask, write_motion
from timesformer_jax.errors import CheckpointError
from timesformer_jax.evaluation.evaluate import evaluate
from timesformer_jax.inference.export import export_classifier
from timesformer_jax.support.files import read_lines
from timesformer_jax.training.loop import train
from timesformer_jax.training.recipe import RECIPES, Optimizer

# %% [markdown]
# ## The videos
#
# A folder for each class is all that is needed; [docs/data.md](../docs/data.md) has the other formats. A single frame
# says nothing about these classes: backwards, a shape that grows is one that shrinks.

# %%
write_motion(Path("videos"), MotionTask(kinds=("moving", "growing")), train=600, test=200)
for folder in sorted(Path("videos/train").iterdir()):
    print(f"{folder}  {len(list(folder.iterdir()))} videos")

# %% [markdown]
# ## What to start from

# %%
checkpoint, size = "motion-tiny", 32
if jax.default_backend() == "cpu":
    print("On a CPU: motion-tiny, which ships with the package.")
else:
    try:
        TimesformerForVideoClassification.from_pretrained("facebook/timesformer-base-finetuned-k400")
        checkpoint, size = "facebook/timesformer-base-finetuned-k400", 224
        print(f"{checkpoint}, from the Hub")
    except CheckpointError:
        print("The Hub can't be reached: motion-tiny, which ships with the package, instead.")

# %% [markdown]
# ## The recipe
#
# The preset `finetune` with a few changes. No video is mirrored: what moves to the left would move to the right, and
# keep its label. `timesformer train finetune --help` lists every setting.

# %%
recipe = RECIPES["finetune"]
tiny = checkpoint == "motion-tiny"
recipe = dataclasses.replace(
    recipe,
    data=DataConfig(
        train="videos/train",
        validation="videos/test",
        workers=0,
        augmentation=Augmentation(short_side=(size, size), flip=0.0),
    ),
    model=dataclasses.replace(recipe.model, checkpoint=checkpoint, sampling_rate=3.0, drop_path_rate=0.0),
    # A tiny model takes, and needs, larger steps than a large one.
    optimizer=Optimizer(
        kind="adamw", learning_rate=2e-3 if tiny else 1e-4, weight_decay=0.05, decay_all=False, clip_norm=1.0
    ),
    batch_size=16,
    epochs=8,
    log_every=100,
)
result = train(recipe, "run")

# %% [markdown]
# ## The curves
#
# Every step is a line of `run/metrics.jsonl`, every validation another; TensorBoard reads `run/tensorboard`.

# %%
lines = read_lines(Path("run/metrics.jsonl"))
steps = [line for line in lines if "loss" in line]
validations = [line for line in lines if "validation_accuracy" in line]
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
left.plot([line["step"] for line in steps], [line["loss"] for line in steps], color="#2a6fbb", linewidth=1)
left.axhline(np.log(10), color="#c44536", linestyle=":", label="chance")
left.set(xlabel="step", ylabel="loss", title="training", ylim=(0, None))
left.legend()
right.plot([line["step"] for line in steps], [line["accuracy"] for line in steps], color="#b9bec5", label="batch")
right.plot(
    [line["step"] for line in validations],
    [line["validation_accuracy"] for line in validations],
    "o-", color="#2a6fbb", label="videos not trained on",
)  # fmt: skip
right.axhline(1 / 10, color="#c44536", linestyle=":", label="chance")
right.set(xlabel="step", ylabel="accuracy", title="training and validation", ylim=(0, 1.03))
right.legend(loc="lower right")
for axis in (left, right):
    axis.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## The confusion matrix
#
# The exported model on the test videos, each counted once. `evaluation/` also has the predictions, a table of the
# classes and the accuracies.

# %%
evaluation = evaluate(
    result.export, dataclasses.replace(recipe.data), views=Views(crops=1), batch_size=24, output="evaluation"
)
print(f"top-1 {evaluation.top1:.1%} of {evaluation.videos} videos")
Image("evaluation/confusion.png", width=480)

# %% [markdown]
# ## Export
#
# `run/export` is what Transformers loads, and everything here that takes a checkpoint. For serving without this
# package, `timesformer export` (or the call below) serializes the compiled function with its weights; `run.py` beside
# them needs JAX and safetensors alone.

# %%
classify = VideoClassifier.from_pretrained(result.export)
export_classifier(classify, "exported", platforms=("cpu", "cuda", "tpu"))
videos = [min(folder.iterdir()) for folder in sorted(Path("videos/test").iterdir())]
np.save("clips.npy", np.stack([classify.prepare(classify.read(video)) for video in videos]))
answer = subprocess.run(
    [sys.executable, "exported/run.py", "clips.npy"], capture_output=True, text=True, check=True
).stdout
for video, line in zip(videos, answer.splitlines(), strict=True):
    print(f"{video}:  {line.split()[0]}")
