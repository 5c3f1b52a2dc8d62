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
# # Classify a video, and look at what the model looks at
#
# A video goes through a TimeSformer; then four pictures of where its attention lies. With access to the Hugging Face
# Hub this uses the published model for Kinetics-400; otherwise `motion-tiny`, which ships with the package and tells
# in which of eight directions a shape moves.

# %%
import matplotlib.pyplot as plt
import numpy as np
from huggingface_hub import hf_hub_download

from timesformer_jax import VideoClassifier
from timesformer_jax.data.motion import MotionTask, motion_clip, write_keyframes
from timesformer_jax.errors import CheckpointError
from timesformer_jax.inference.predictions import best_predictions
from timesformer_jax.interpret.attention_maps import attention_maps
from timesformer_jax.interpret.figures import embedding_figure, overlay_figure, temporal_figure
from timesformer_jax.interpret.overlay import Scale
from timesformer_jax.interpret.relevance import class_relevance
from timesformer_jax.interpret.rollout import attention_rollout
from timesformer_jax.interpret.video_encoder import VideoEncoder

plt.rcParams["figure.dpi"] = 72  # keeps the notebook small

# %% [markdown]
# ## A model and a video

# %%
checkpoint = "facebook/timesformer-base-finetuned-k400"
try:
    classify = VideoClassifier.from_pretrained(checkpoint)
    video = hf_hub_download("nielsr/video-demo", "eating_spaghetti.mp4", repo_type="dataset")
    print(f"{checkpoint}, from the Hub")
except (CheckpointError, OSError):
    checkpoint, video = "motion-tiny", "video.mp4"
    print(f"The Hub can't be reached: {checkpoint} instead, on a video of a moving shape.")
    classify = VideoClassifier.from_pretrained(checkpoint)
    frames, _ = motion_clip(MotionTask(), seed=3, split="test", number=6)
    write_keyframes(video, frames)
print("It looks at", classify.sampling)

# %%
clip = classify.read(video)
figure, axes = plt.subplots(1, len(clip), figsize=(12, 1.9), layout="constrained")
for number, (axis, frame) in enumerate(zip(axes, clip, strict=True), start=1):
    axis.imshow(frame)
    axis.set_title(f"frame {number}", fontsize=9)
    axis.set_axis_off()

# %% [markdown]
# ## The likeliest classes
#
# One call from file to labels. `classify` also takes arrays of frames and lists of videos.

# %%
predictions = classify(video, top_k=5)
figure, axis = plt.subplots(figsize=(7, 2.4), layout="constrained")
bars = axis.barh([p.label for p in predictions], [p.score for p in predictions], color="#2a6fbb")
axis.bar_label(bars, [f"{p.score:.1%}" for p in predictions], padding=3)
axis.invert_yaxis()
axis.set(xlim=(0, 1.15), xlabel="probability", title="the five likeliest classes")
axis.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# The same frames in reverse order. A model that took the video for a heap of pictures would give the same answer.

# %%
for order, frames in (("as filmed", clip), ("backwards", clip[::-1])):
    (logits,) = classify.forward(classify.prepare(frames)[None])
    best = best_predictions(logits, classify.model.config, top_k=1)[0]
    print(f"{order}:  {best.label}  ({best.score:.1%})")

# %% [markdown]
# ## Where the class token looks
#
# `VideoEncoder` is the same checkpoint with its parameters as they are, for looking inside. In each layer the class
# token attends to the patches of each frame. The picture shows the last layer, averaged over the heads, as a multiple
# of what each patch would get if attention were even.

# %%
encoder = VideoEncoder.from_pretrained(checkpoint)
frames = encoder.read(video)
pictures = encoder.rgb(frames)
pixel_values = encoder.pixel_values(frames[None])

maps = attention_maps(encoder.model, encoder.params, pixel_values).space[-1, 0].mean(axis=0)
maps *= 1 + maps[0].size
overlay_figure(pictures, maps, Scale.of(maps, "attention / even attention"), "spatial attention of CLS, last layer")

# %% [markdown]
# ## Where a patch looks in time
#
# Divided attention has a step of its own over time: each patch attends to its own place in every frame. Here is the
# patch that the class token attends to most.

# %%
row, column = np.unravel_index(maps.sum(axis=0).argmax(), maps.shape[1:])
patch = int(row), int(column)
time = attention_maps(encoder.model, encoder.params, pixel_values, patch=patch).time[-1, 0].mean(axis=0)
temporal_figure(pictures, time, patch, encoder.model.config.patch_shape, "temporal attention of a patch, last layer")

# %% [markdown]
# ## Through all layers
#
# Attention rollout composes the steps over time and space of all layers: the share of the class token that comes from
# each patch of the input.

# %%
shares, of_cls = attention_rollout(encoder.model, encoder.params, pixel_values)
print(f"{shares[0].sum():.3f} from the patches + {of_cls[0]:.3f} from CLS itself = {shares[0].sum() + of_cls[0]:.3f}")
even = shares[0] * shares[0].size / shares[0].sum()
overlay_figure(pictures, even, Scale.of(even, "share / even share"), "attention rollout")

# %% [markdown]
# ## What speaks for a class
#
# Rollout is the same whatever one asks about. Relevance weighs each attention with the gradient of a class's logit.

# %%
top = predictions[0]
relevance, logits = class_relevance(encoder.model, encoder.params, pixel_values, [top.index])
relative = relevance[0] / relevance[0].max()
overlay_figure(pictures, relative, Scale.of(relative, "relevance / largest"), f"what speaks for “{top.label}”")

# %% [markdown]
# ## What the embeddings know of places and frames
#
# Cosine similarities of the learned embeddings: each place with all places, each frame with all frames.

# %%
embedding_figure(encoder.model, encoder.params)

# %% [markdown]
# On the command line: `timesformer classify VIDEO --model MODEL` and `timesformer visualize VIDEO --model MODEL`.
