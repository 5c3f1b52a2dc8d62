"""A classifier as files that run without this package: lowered to StableHLO, which each machine compiles.

model.jax_export       the function from weights and frames to logits, serialized by jax.export
weights.safetensors    its weights, folded for inference, under flat names
settings.json          labels, sampling, how frames become its uint8 input, and which JAX reads it
run.py                 a short script that loads and calls it, with jax and safetensors alone
"""

import calendar
import json
import re
from collections.abc import Sequence
from datetime import date
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, UInt8
from safetensors.flax import save_file

from ..checkpoints.mapping import Params, flat_names, set_leaf
from ..errors import TimesformerError
from ..support.files import write_atomically
from .classifier import VideoClassifier
from .quantization import apply

Platform = Literal["cpu", "cuda", "rocm", "tpu"]

MODEL, WEIGHTS, SETTINGS, SCRIPT = "model.jax_export", "weights.safetensors", "settings.json", "run.py"

RUN = '''\
"""Labels of clips: python run.py clips.npy, an array (batch, frames, height, width, 3) of uint8 as in settings.json."""
import json, pathlib, sys
import jax, jax.export, numpy
from safetensors.flax import load_file

here = pathlib.Path(__file__).parent
settings = json.loads((here / "settings.json").read_text())
clips, shape = numpy.load(sys.argv[1]), settings["input"]["shape"]
given = shape[0] == "batch"  # the first of the sizes is the user's
if clips.dtype != numpy.uint8 or list(clips.shape[given:]) != shape[given:]:
    sys.exit(f"{sys.argv[1]} holds {clips.dtype} of shape {clips.shape}; clips are uint8 of shape {shape}.")
try:
    model = jax.export.deserialize(bytearray((here / "model.jax_export").read_bytes()))
    model.mlir_module()  # what JAX can't read of another version's program shows here
except Exception:
    made = settings["made_by_jax"]["version"]
    sys.exit(f"JAX {jax.__version__} can't read this program of JAX {made}; install JAX {made} or a later one.")
logits = jax.jit(model.call)(load_file(here / "weights.safetensors"), clips)
for row in numpy.asarray(logits):
    print(settings["labels"][row.argmax()], *row.tolist())
'''

RELEASES = {
    "0.10.0": date(2026, 4, 16),
    "0.10.1": date(2026, 5, 18),
    "0.10.2": date(2026, 6, 17),
    "0.11.0": date(2026, 7, 16),
    "0.11.1": date(2026, 8, 17),
    "0.11.2": date(2026, 9, 17),
    "0.12.0": date(2026, 10, 16),
}
"""The day of each release of JAX: JAX itself does not know it."""

GUARANTEED_MONTHS = 6
"""What jax.export wrote is read by every JAX that is released within so many months after the one that wrote it.

(https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees)
"""


def export_classifier(
    classify: VideoClassifier,
    directory: str | PathLike[str],
    *,
    platforms: Sequence[Platform] = ("cpu", "cuda", "tpu"),
    batch_size: int | None = None,
    overwrite: bool = False,
) -> int:
    """Writes a classifier for use without this package.

    Args:
        classify: a classifier in float32 or bfloat16; its weights may be in eight bits.
        directory: the directory to make.
        platforms: those that the model shall run on.
        batch_size: clips in a batch; None leaves it open. An open batch adds a check that older versions of JAX can't
            read (an export by 0.11 or 0.12 in 0.10, for example); of a fixed one they read the program.
        overwrite: replace an earlier export.

    Returns:
        Bytes of the serialized function, without the weights.

    Raises:
        TimesformerError: there is something in the directory's place, or the model can't be exported.
    """
    directory = Path(directory)
    if batch_size is not None and batch_size < 1:
        raise TimesformerError(f"a batch of {batch_size} clips was asked for; a batch holds at least one.")
    if directory.exists() and not (overwrite and (directory / MODEL).is_file()):
        advice = "choose another directory" if overwrite else "choose another directory, or give --overwrite"
        raise TimesformerError(f"{directory} exists already; {advice}.")
    module = classify.forward.module
    if module.pixel_centre is None:
        raise TimesformerError("a float64 model can't be exported, since it takes no uint8 frames; choose float32.")
    weights = {name: jnp.asarray(leaf) for name, leaf in flat_names(classify.forward.variables).items()}

    def compute(weights: dict[str, Array], frames: UInt8[Array, "b t h w 3"]) -> Float[Array, "b labels"]:
        variables: dict[str, Params] = {}
        for name, leaf in weights.items():
            set_leaf(variables, tuple(name.split("/")), leaf)
        return apply(module, variables, frames)

    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in weights.items()}
    settings = export_settings(classify, batch_size=batch_size) | {"made_by_jax": _made_by(platforms)}
    (batch,) = (batch_size,) if batch_size is not None else export.symbolic_shape("batch")
    frames = jax.ShapeDtypeStruct((batch, *settings["input"]["shape"][1:]), jnp.uint8)
    serialized = export.export(jax.jit(compute), platforms=platforms)(shapes, frames).serialize()
    with write_atomically(directory) as temporary:
        temporary.mkdir()
        (temporary / MODEL).write_bytes(serialized)
        save_file(weights, temporary / WEIGHTS)
        (temporary / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        (temporary / SCRIPT).write_text(RUN, encoding="utf-8")
    return len(serialized)


def _made_by(platforms: Sequence[Platform]) -> dict[str, Any]:
    """The part of settings.json that says which JAX can read the program, and until when that is guaranteed."""
    return {
        "version": jax.__version__,
        "guaranteed_until": guaranteed_until(jax.__version__).isoformat(),
        "platforms": list(platforms),
    }


def guaranteed_until(version: str) -> date:
    """The day until which every JAX that is released reads the exports of a version, at least.

    A version that `RELEASES` does not have counts as the newest one there that is not newer.
    """
    parts = version_info(version)
    released = max((day for known, day in RELEASES.items() if version_info(known) <= parts), default=date.min)
    year, month = divmod(released.year * 12 + released.month - 1 + GUARANTEED_MONTHS, 12)
    return date(year, month + 1, min(released.day, calendar.monthrange(year, month + 1)[1]))


def version_info(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparisons."""
    return tuple(int(part) for part in re.findall("[0-9]+", version)[:3])


def export_settings(classify: VideoClassifier, *, batch_size: int | None = None) -> dict[str, Any]:
    """Gives the contents of settings.json that follow from the classifier and the batch size (None: any)."""
    config, processor = classify.model.config, classify.processor
    blank = np.zeros((config.num_frames, *config.image_shape, 3), np.uint8)
    clip_shape = processor.resize_and_crop(blank).shape
    geometry = ("do_resize", "size", "resample", "do_center_crop", "crop_size")
    return {
        "labels": [config.id2label.get(i, str(i)) for i in range(config.num_labels)],
        "problem_type": config.problem_type or "single_label_classification",
        "input": {
            "shape": [batch_size or "batch", *clip_shape],
            "dtype": "uint8",
            "channel_order": processor.channel_order,
            "range": "0 to 255; the model itself rescales and normalises",
        },
        "preprocessing": {name: value for name, value in processor.to_dict().items() if name in geometry},
        "sampling": {"num_frames": config.num_frames, "sampling_rate": config.sampling_rate},
    }
