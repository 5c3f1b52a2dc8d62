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
# # Convert a PyTorch checkpoint, and see that nothing changed
#
# A checkpoint of Transformers is converted to Flax, the two models are compared layer by layer, and the checkpoint is
# converted back, bit for bit. With access to the Hugging Face Hub this takes the published model for Kinetics-400;
# otherwise a small one made on the spot.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

from timesformer_jax import TimesformerForVideoClassification
from timesformer_jax.conversion import convert_flax_to_hf, convert_hf_to_flax

jax.config.update("jax_enable_x64", True)  # for the comparison in float64
transformers.logging.disable_progress_bar()

# %% [markdown]
# ## A checkpoint of PyTorch
#
# In a freshly made model biases and time embeddings are zero and norms are one. Two models that treat those
# differently would agree on it all the same, so every tensor is disturbed first.

# %%
hub = "facebook/timesformer-base-finetuned-k400"
try:
    reference = transformers.TimesformerForVideoClassification.from_pretrained(hub)
    print(f"{hub}, from the Hub")
except OSError:
    print("The Hub can't be reached: a model of six layers, made here, instead.")
    torch.manual_seed(0)
    config = transformers.TimesformerConfig(
        image_size=64, patch_size=16, num_frames=8, num_labels=10,
        hidden_size=96, num_hidden_layers=6, num_attention_heads=4, intermediate_size=384,
    )  # fmt: skip
    reference = transformers.TimesformerForVideoClassification(config)
    with torch.no_grad():
        for tensor in reference.parameters():
            tensor += 0.1 * torch.randn_like(tensor)
reference.eval().save_pretrained("pytorch")
print(f"{sum(tensor.numel() for tensor in reference.parameters()):,} parameters")

# %% [markdown]
# ## To Flax
#
# What `convert_hf_to_flax pytorch flax --verify` does: the directory `flax` has `config.json`,
# `preprocessor_config.json` and the parameters in Orbax. The table is the check's: both models on the same clip, in
# float32.

# %%
differences = convert_hf_to_flax("pytorch", "flax", check=True)
print(f"{len(differences)} outputs compared, all explained by rounding: {all(d.explained for d in differences)}")

# %% [markdown]
# ## Layer by layer
#
# The same in both precisions. In float32 a wrong formula may hide behind rounding; in float64 rounding is a billion
# times smaller and nothing hides. For comparison, a small mistake that is easily made: GELU approximated by tanh
# instead of the exact one.

# %%
config = reference.config
clip = np.random.default_rng(0).standard_normal((1, config.num_frames, config.image_size, config.image_size, 3))


def pytorch_outputs(dtype):
    frames = torch.from_numpy(clip.transpose(0, 1, 4, 2, 3)).to(dtype)
    with torch.no_grad():
        outputs = reference.to(dtype)(frames, output_hidden_states=True, output_attentions=True)
    return [x.numpy() for x in outputs.hidden_states], [x.numpy() for x in outputs.attentions]


def flax_outputs(dtype, **changes):
    model, params = TimesformerForVideoClassification.from_pretrained(
        "flax", dtype=dtype, param_dtype=dtype, precision="highest", **changes
    )
    forward = jax.jit(model.apply, static_argnames=("output_hidden_states", "output_attentions"))
    outputs = forward({"params": params}, clip.astype(dtype), output_hidden_states=True, output_attentions=True)
    return outputs.hidden_states, outputs.attentions


def relative_differences(found, expected):
    pairs = zip(found, expected, strict=True)
    return [np.abs(np.reshape(x, y.shape) - y).max() / np.abs(y).max() for x, y in pairs]


# %%
float32, float64 = pytorch_outputs(torch.float32), pytorch_outputs(torch.float64)
compared = {
    "float32": (flax_outputs("float32"), float32, "#2a6fbb", "o-"),
    "float64": (flax_outputs("float64"), float64, "#2e8b57", "s-"),
    "float64, tanh GELU": (flax_outputs("float64", hidden_act="gelu_new"), float64, "#c44536", "^--"),
}
figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
for place, (axis, title) in enumerate(zip(axes, ("hidden states", "attentions"), strict=True)):
    for name, (found, expected, colour, style) in compared.items():
        axis.plot(relative_differences(found[place], expected[place]), style, color=colour, label=name, markersize=5)
    for dtype, colour in ((np.float32, "#2a6fbb"), (np.float64, "#2e8b57")):
        axis.axhline(np.finfo(dtype).eps, color=colour, linestyle=":", linewidth=1)
        text = f"spacing of {dtype.__name__}"
        style = {"color": colour, "fontsize": 8, "ha": "right", "va": "top"}
        axis.text(0.99, np.finfo(dtype).eps / 2, text, transform=axis.get_yaxis_transform(), **style)
    axis.set(yscale="log", title=title, xlabel="embeddings, then layers" if place == 0 else "layer, counted from 0")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.3)
axes[0].set(ylabel="largest difference / largest value", ylim=(1e-17, 1))
axes[1].legend(loc="center right", bbox_to_anchor=(1.0, 0.36), fontsize=9)
plt.show()

# %% [markdown]
# ## And back
#
# `convert_flax_to_hf` writes safetensors that Transformers loads. Every tensor is equal to the first one, bit for
# bit.

# %%
convert_flax_to_hf("flax", "back")
before, after = load_file("pytorch/model.safetensors"), load_file("back/model.safetensors")
equal = [before[name].tobytes() == after[name].tobytes() for name in before]
print(f"{sum(equal)} of {len(before)} tensors equal bit for bit; same names: {before.keys() == after.keys()}")

# %%
returned = transformers.TimesformerForVideoClassification.from_pretrained("back").eval()
with torch.no_grad():
    frames = torch.from_numpy(clip.transpose(0, 1, 4, 2, 3)).float()
    difference = (returned(frames).logits - reference.float()(frames).logits).abs().max()
print(f"largest difference of the logits, before and after: {difference:g}")
