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
# # Change the model
#
# A new attention scheme in twenty lines, trained against the built-in ones on videos whose class lies in the motion
# alone.
#
# The scheme: instead of one attention over time and another over space (divided), half of the heads look through time
# and the other half through space, at once. It needs no parameters that joint attention does not have, and no token
# ever looks at all others. (ViViT, [arXiv 2103.15691](https://arxiv.org/abs/2103.15691), calls it model 4.)

# %%
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax.traverse_util import path_aware_map

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, VideoProcessor
from timesformer_jax.data.motion import MotionTask, motion_clip
from timesformer_jax.model.attention import grouped_attention
from timesformer_jax.model.layers import TimesformerEmbeddings, TimesformerMlp
from timesformer_jax.model.module import TimesformerModule
from timesformer_jax.model.remat import scan_layers
from timesformer_jax.model.token_groups import TokenGroups

# %% [markdown]
# ## The scheme
#
# `grouped_attention` is a pure function of queries, keys and values, laid out as (batch, places, frames, 3, heads,
# width of a head), with those of CLS apart. `TokenGroups` says which tokens see each other: those of a frame, or a
# place in all frames. Heads are an axis like any other, so they can be shared out.


# %%
class SplitAttention(TimesformerModule):
    """Half of the heads attend over space, the other half over time.

    Each frame has a CLS. It has no place of its own, so its half for time sees CLS alone: attention to one token gives
    that token's value.
    """

    @nn.compact
    def __call__(self, cls, patches):
        config, half, frames = self.config, self.config.num_attention_heads // 2, patches.shape[2]
        project = self.dense((3, config.num_attention_heads, config.head_dim), "qkv")
        cls_qkv, qkv = project(cls), project(patches)
        frame, place = (TokenGroups(kind, config.grid, frames) for kind in ("frame", "time"))
        cls_space, space, _ = grouped_attention(frame, cls_qkv[..., :half, :], qkv[..., :half, :])
        _, time, _ = grouped_attention(place, None, qkv[..., half:, :])
        cls_heads = jnp.concatenate([cls_space, cls_qkv[:, :, :, 2, half:]], axis=-2)
        output = self.dense(config.hidden_size, "output", axis=(-2, -1))
        return output(cls_heads), output(jnp.concatenate([space, time], axis=-2))


class SplitLayer(TimesformerModule):
    """The layer around it. CLS is copied into each frame, and the copies are averaged after the MLP."""

    @nn.compact
    def __call__(self, tokens, _):
        cls, patches = tokens
        tokens = jnp.repeat(cls, patches.shape[2], axis=2), patches
        norm, attention = self.layer_norm("layernorm_before"), SplitAttention(**self.settings(), name="attention")
        tokens = jax.tree.map(jnp.add, tokens, attention(*map(norm, tokens)))
        norm, mlp = self.layer_norm("layernorm_after"), TimesformerMlp(**self.settings(), name="mlp")
        cls, patches = (part + mlp(norm(part)) for part in tokens)
        return (cls.mean(axis=2, keepdims=True), patches), None


# %% [markdown]
# Embeddings, the scan over stacked layers and the head are those of the package.


# %%
class SplitTimesformer(TimesformerModule):
    """Clips to logits."""

    @nn.compact
    def __call__(self, pixel_values):
        layers, depth = SplitLayer(**self.settings(), name="layers"), self.config.num_hidden_layers
        tokens = TimesformerEmbeddings(**self.settings(), name="embeddings")(pixel_values)
        (cls, _), _ = scan_layers(self.remat, depth)(layers, tokens, jnp.zeros(depth))
        return self.dense(self.config.num_labels, "classifier")(self.layer_norm("layernorm")(cls[:, 0, 0]))


# %% [markdown]
# ## The task
#
# A textured shape moves in one of eight directions. Classes come in pairs that are each other played backwards, so
# that without a sense of the order of frames nobody is right in more than half of the clips.

# %%
task = MotionTask(size=32)
classes = [name for pair in task.pairs for name in pair]


def clips_of(split, count):
    """Normalised clips and their classes."""
    made = [motion_clip(task, seed=0, split=split, number=number) for number in range(count)]
    pixel_values = VideoProcessor().rescale_and_normalize(np.stack([clip for clip, _ in made]))
    return pixel_values, np.array([classes.index(name) for _, name in made])


train_clips, train_labels = clips_of("train", 1600)
test_clips, test_labels = clips_of("test", 320)

figure, axes = plt.subplots(2, 8, figsize=(9, 2.6), layout="constrained")
for row, number in zip(axes, (0, 1), strict=True):
    frames, name = motion_clip(task, seed=0, split="train", number=number)
    row[0].set_ylabel(name)
    for axis, frame in zip(row, frames, strict=True):
        axis.imshow(frame)
        axis.set(xticks=[], yticks=[])
figure.suptitle("two classes, one the other played backwards", fontsize=10)
plt.show()

# %% [markdown]
# ## Training
#
# The same data in the same order, the same steps and the same optimizer for all. Time embeddings and temporal
# projections start at random, not at zero: from random weights zero would hold the sense of time back for long
# ([docs/motion.md](../docs/motion.md)).

# %%
STEPS, BATCH = 250, 16
config = TimesformerConfig(
    image_size=32, patch_size=8, num_frames=8, num_labels=len(classes), initializer_range=0.25,
    hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256,
)  # fmt: skip
rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, STEPS // 10, STEPS)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.05))


def start(model):
    """Parameters before the first step."""
    random = np.random.default_rng(0)

    def randomize(path, leaf):
        timely = path[-1] == "time_embeddings" or path[-2:] == ("temporal_dense", "kernel")
        return random.normal(0, 0.25, leaf.shape).astype(leaf.dtype) if timely else leaf

    return path_aware_map(randomize, jax.jit(model.init)(jax.random.key(0), train_clips[:1])["params"])


def fit(model, logits_of):
    """Trains a model; gives its number of parameters, the losses, the accuracy on test clips and the seconds."""

    @jax.jit
    def step(params, state, clips, labels):
        def loss_of(params):
            return optax.softmax_cross_entropy_with_integer_labels(logits_of(model, params, clips), labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = start(model)
    state, order, losses, began = optimizer.init(params), np.random.default_rng(1), [], time.perf_counter()
    for _ in range(STEPS):
        chosen = order.integers(0, len(train_labels), BATCH)
        params, state, loss = step(params, state, train_clips[chosen], train_labels[chosen])
        losses.append(float(loss))
    predict = jax.jit(lambda clips: logits_of(model, params, clips).argmax(axis=-1))
    right = np.concatenate([predict(part) for part in np.split(test_clips, 8)]) == test_labels
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return size, losses, right.mean(), time.perf_counter() - began


def built_in(model, params, clips):
    return model.apply({"params": params}, clips).logits


results = {
    "split heads (new)": fit(SplitTimesformer(config), lambda m, params, clips: m.apply({"params": params}, clips))
}
for scheme in ("divided_space_time", "joint_space_time", "space_only"):
    model = TimesformerForVideoClassification(config.replace(attention_type=scheme))
    results[scheme.replace("_", " ")] = fit(model, built_in)
for name, (size, _, accuracy, seconds) in results.items():
    print(f"{name:20} {size:9,} parameters   {accuracy:6.1%} of the test clips right   {seconds:5.0f} s")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=[1.5, 1], layout="constrained")
colours = ["#c44536", "#2a6fbb", "#2e8b57", "#8a8f98"]
for (name, (_, losses, _, _)), colour in zip(results.items(), colours, strict=True):
    left.plot(np.arange(10, STEPS + 1), np.convolve(losses, np.ones(10) / 10, "valid"), color=colour, label=name)
left.axhline(np.log(2), color="black", linestyle=":", linewidth=1, label="only the pair is known")
left.set(xlabel="step", ylabel="loss (mean of 10 steps)", ylim=(0, None))
left.legend(fontsize=9)
bars = right.barh(list(results), [accuracy for _, _, accuracy, _ in results.values()], color=colours)
right.axvline(0.5, color="black", linestyle=":", linewidth=1)
shares, box = [f"{accuracy:.0%}" for _, _, accuracy, _ in results.values()], {"facecolor": "white", "edgecolor": "none"}
right.bar_label(bars, shares, padding=5, bbox=box | {"pad": 1})
right.invert_yaxis()
right.set(xlim=(0, 1.12), xlabel="accuracy on test clips")
for axis in (left, right):
    axis.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# Space-only attention never gets past the dotted line: it sees which pair a clip belongs to, and guesses which of the
# two it is. One short run from one seed ranks the others no further than that; `timesformer ablate` trains variants
# with the same budget from several seeds ([docs/ablations.md](../docs/ablations.md)).
#
# A scheme that proves itself moves into the package, where it costs at most four files: its name, its steps, the
# groups of tokens that they need, and their probabilities among the outputs
# ([docs/extending.md](../docs/extending.md)). Parameters, checkpoints and shardings follow from the steps.
