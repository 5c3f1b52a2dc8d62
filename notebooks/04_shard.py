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
# # Spread a model over eight devices
#
# The same training step on one device and on eight: which device holds what, the numbers that come out, and what
# changes for a pod. The eight devices are simulated on a CPU, so that this runs anywhere; to XLA's partitioner they
# are as real as TPU chips.

# %%
import os
import re

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is first used, as the next two
import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)  # so that a difference in the eighth digit could not be called rounding

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from timesformer_jax import TimesformerForVideoClassification, VideoProcessor
from timesformer_jax.data.motion import MotionTask, motion_clip
from timesformer_jax.sharding import MeshConfig, global_batch, make_mesh, shardings_of, use_mesh

print(f"{jax.device_count()} devices of kind {jax.devices()[0].device_kind}")

# %% [markdown]
# ## A mesh
#
# Devices stand in a grid with four named axes. `data` spreads clips; `fsdp` spreads clips and parameters; `tensor`
# spreads heads and hidden units; `frames` spreads the frames of a clip. Their product is the number of devices.

# %%
mesh = make_mesh(MeshConfig(data=2, fsdp=2, frames=2))
print(dict(mesh.shape))

# %% [markdown]
# ## Who holds what
#
# A batch of eight clips of eight frames, and one of the parameters. Each colour is a device; where several hold the
# same piece, all their numbers stand in it.

# %%
model, params = TimesformerForVideoClassification.from_pretrained("motion-tiny", dtype="float64", param_dtype="float64")
clips = [motion_clip(MotionTask(size=32), seed=0, split="train", number=number)[0] for number in range(8)]
batch = {
    "pixel_values": VideoProcessor().rescale_and_normalize(np.stack(clips)).astype(np.float64),
    "labels": np.zeros(8, int),  # wrong for most: of right ones the model has nothing to learn
}


def draw(axis, array, axes, labels, title):
    """Draws two axes of an array, cut as it lies on the devices."""
    pieces = {}
    for device, slices in array.sharding.devices_indices_map(array.shape).items():
        bounds = tuple(slices[i].indices(array.shape[i])[:2] for i in axes)
        pieces.setdefault(bounds, []).append(device.id)
    for ((top, bottom), (left, right)), devices in pieces.items():
        colour = plt.cm.tab10(min(devices))
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, facecolor=colour, edgecolor="white", lw=2))
        text = f"device{'s' if len(devices) > 1 else ''} {', '.join(map(str, sorted(devices)))}"
        axis.text((left + right) / 2, (top + bottom) / 2, text, ha="center", va="center", color="white", fontsize=9)
    axis.set(xlim=(0, array.shape[axes[1]]), ylim=(array.shape[axes[0]], 0), title=title)
    axis.set(ylabel=labels[0], xlabel=labels[1])
    axis.spines[:].set_visible(False)


placed_batch = global_batch(batch, mesh, batch_size=8)
placed_params = jax.device_put(params, shardings_of(params, mesh))
kernel = placed_params["timesformer"]["encoder"]["layers"]["mlp"]["intermediate"]["kernel"]
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
draw(left, placed_batch["pixel_values"], (0, 1), ("clips", "frames"), "the batch")
draw(right, kernel, (1, 2), ("width of the tokens", "hidden units of the MLP"), "a kernel of the MLP (each layer's)")

# %% [markdown]
# JAX draws an array of two axes by itself:

# %%
jax.debug.visualize_array_sharding(kernel[0])

# %% [markdown]
# ## The same numbers
#
# Loss and gradients of that batch, on one device and on meshes of eight. The model is the same function; nothing in
# it knows how many devices there are. What the devices send each other is in the compiled program.


# %%
def loss_of(params, batch):
    return model.apply({"params": params}, batch["pixel_values"], labels=batch["labels"]).loss


compute = jax.value_and_grad(loss_of)
loss, gradients = jax.jit(compute)(params, batch)
largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
print(f"one device: loss {loss:.15f}")

meshes = {
    "data 8": MeshConfig(data=8),
    "data 2, fsdp 2, frames 2": MeshConfig(data=2, fsdp=2, frames=2),
    "tensor 2, frames 4": MeshConfig(tensor=2, frames=4),
}
rows = []
for name, shape in meshes.items():
    mesh = make_mesh(shape)
    placed = jax.device_put(params, shardings_of(params, mesh)), global_batch(batch, mesh, batch_size=8)
    with use_mesh(mesh):
        program = jax.jit(compute).lower(*placed).compile()
    sharded_loss, sharded_gradients = jax.device_get(program(*placed))
    difference = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), sharded_gradients, gradients)))
    counts = {
        kind: len(re.findall(rf"= \S.* {kind}(?:-start)?\(", program.as_text()))
        for kind in ("all-reduce", "all-gather", "all-to-all")
    }
    rows.append([name, f"{abs(sharded_loss - loss):.1e}", f"{difference / largest:.1e}", *map(str, counts.values())])

figure, axis = plt.subplots(figsize=(11, 1.9), layout="constrained")
axis.set_axis_off()
columns = ["mesh", "difference of the loss", "of the gradients (relative)", "all-reduces", "all-gathers", "all-to-alls"]
table = axis.table(rows, colLabels=columns, loc="center", cellLoc="center")
table.auto_set_font_size(False)
table.set_fontsize(10)
table.auto_set_column_width(range(len(columns)))
table.scale(1, 1.8)
plt.show()

# %% [markdown]
# `data` alone sums gradients. `fsdp` gathers parameters as they are needed. `frames` turns patches and frames by
# all-to-alls between the temporal and the spatial attention. (These are the instructions in the program's text; those
# in the body of the loop over layers run once a layer.)
#
# ## What changes for a pod
#
# Of the code above, two lines:
#
# - the simulated devices go, and every host calls `jax.distributed.initialize()` first
#   (`timesformer_jax.support.distributed` does it with shorter timeouts and clearer errors);
# - each host reads only its own clips: `batch_share(mesh, batch_size)` says which, and `global_batch` takes those.
#
# `timesformer train` does both. The command is the one for a single device, with the mesh as options:
#
#     timesformer train large-k400 --data.train k400/ --output run --mesh.data 32 --mesh.fsdp 2 --mesh.frames 4
#
# Around it: the videos packed into shards (`timesformer pack`), the run directory where all hosts see it, the same
# command on each of them. [docs/scaling.md](../docs/scaling.md) has the scripts, and what the TPU compiler says of
# memory and traffic on slices of up to 256 chips.
