"""Makes the files beside this script, in a checkout of the version whose files they shall be: commit ce1e483.

    PYTHONPATH=CHECKOUT:CHECKOUT/tests JAX_PLATFORMS=cpu python tests/earlier/make.py CHECKOUT

converted.zip  what convert_hf_to_flax made of a tiny checkpoint of Transformers, every tensor of it disturbed
exported.zip   what `timesformer export` made of that
run.zip        a training run (small_run.py) that was asked to stop in the middle of an epoch, after step 5 of 8
metrics.jsonl  of the same run without a stop
expected.npz   random clips, and the logits that this version computed for them

No paths of the machine are left: of the source files in the export JAX keeps the names alone, what Orbax writes in its
commit_success.txt is shortened, and TensorBoard's events, which are named after the machine, and the lock are left out.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from reference import tiny_reference
from small_run import make_pictures, recipe

from timesformer_jax import TimesformerForVideoClassification, VideoClassifier
from timesformer_jax.training.loop import train
from timesformer_jax.training.stopping import StopRequest

HERE = Path(__file__).absolute().parent

# No two dimensions are equal, nor is any setting the usual one.
MODEL: dict[str, Any] = {
    "image_size": 15,
    "patch_size": 5,
    "num_frames": 4,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 20,
    "num_labels": 7,
    "layer_norm_eps": 1e-4,
}
PREPROCESSING: dict[str, Any] = {
    "size": {"shortest_edge": 18},
    "crop_size": {"height": 15, "width": 15},
    "image_mean": [0.4, 0.45, 0.5],
    "image_std": [0.2, 0.25, 0.3],
}


def main() -> None:
    """Makes everything in an empty folder, and moves it here."""
    checkout = Path(sys.argv[1]).absolute()
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 15, 15, 3), np.uint8)
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        expected = make_converted(checkout / "convert" / "convert_hf_to_flax.py", clips) | make_run(clips)
        for file in Path().rglob("commit_success.txt"):
            file.write_text(file.read_text().replace(f"{Path().absolute()}/", ""))
        for name in ("converted", "exported", "run"):
            shutil.make_archive(str(HERE / name), "zip", ".", name)
        shutil.copy("whole/metrics.jsonl", HERE)
    np.savez_compressed(HERE / "expected.npz", clips=clips, **expected)


def make_converted(convert: Path, clips: np.ndarray) -> dict[str, np.ndarray]:
    """Makes converted/ and exported/; gives their logits."""
    names = {i: f"class {i}" for i in range(7)}
    model = tiny_reference(dtype=torch.float32, id2label=names, label2id={v: k for k, v in names.items()}, **MODEL)
    model.save_pretrained("source")
    transformers.VideoMAEImageProcessor(**PREPROCESSING).save_pretrained("source")
    subprocess.run([sys.executable, convert, "source", "converted"], check=True)
    command = [sys.executable, "-m", "timesformer_jax.cli", "export", "converted", "exported"]
    subprocess.run(command, check=True, env=os.environ | {"JAX_HLO_SOURCE_FILE_CANONICALIZATION_REGEX": ".*/"})
    np.save("clips.npy", clips)
    command = [sys.executable, "exported/run.py", "clips.npy"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {
        "converted": logits("converted", clips),
        "classifier": VideoClassifier.from_pretrained("converted").logits(list(clips)),
        "exported": np.array([[float(value) for value in line.split()[2:]] for line in printed.splitlines()]),
    }


def make_run(clips: np.ndarray) -> dict[str, np.ndarray]:
    """Makes run/, and whole/ without a stop; gives the logits of the parameters in run/."""
    make_pictures(Path("videos"))
    stop = StopRequest()

    def observe(step: int, total: int, values: dict[str, float]) -> None:
        stop.made = step == 4  # is seen after the next step

    train(recipe("videos"), "run", observer=observe, stop=stop)
    shutil.copytree("run", "gone on")
    for run in ("gone on", "whole"):
        train(recipe("videos"), run)
    assert Path("gone on/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()
    shutil.rmtree("run/tensorboard")
    Path("run/.lock").unlink()
    return {name: logits("run", clips[:, :3, :8, :8], training_weights=name) for name in ("ema", "last")}


def logits(checkpoint: str, clips: np.ndarray, **options: Any) -> np.ndarray:
    """The logits of a checkpoint, in float64."""
    with jax.enable_x64(True):
        model, params = TimesformerForVideoClassification.from_pretrained(
            checkpoint, dtype=np.float64, param_dtype=np.float64, **options
        )
        return np.asarray(model.apply({"params": params}, (clips / 255 - 0.5) / 0.25).logits)


if __name__ == "__main__":
    main()
