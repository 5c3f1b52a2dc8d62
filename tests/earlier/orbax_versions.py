"""Writes one tree of parameters by both interfaces of whatever Orbax is installed: FOLDER/old/params, FOLDER/v1/params.

    python -m venv other && other/bin/pip install orbax-checkpoint==0.11.30 -e .
    other/bin/python tests/earlier/orbax_versions.py FOLDER

orbax_0.11.30.zip is such a folder, without commit_success.txt, which names the machine's paths.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

try:
    import orbax.checkpoint.v1 as v1  # pyright: ignore[reportMissingImports]
except ImportError:
    import orbax.checkpoint.experimental.v1 as v1

from timesformer_jax import TimesformerConfig
from timesformer_jax.checkpoints.mapping import mapping_table, set_leaf

CONFIG = TimesformerConfig(
    image_size=8,
    patch_size=4,
    num_frames=3,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=10,
    num_labels=5,
)


def parameters() -> dict[str, Any]:
    """Random parameters of `CONFIG`."""
    params: dict[str, Any] = {}
    for i, entry in enumerate(mapping_table(CONFIG)):
        set_leaf(params, entry.path, np.random.default_rng(i).normal(size=entry.shape).astype(np.float32))
    return params


def write_old(path: Path) -> None:
    """By the interface that Orbax has had from the beginning."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(parameters()))


def write_v1(path: Path) -> None:
    """By the interface that shall be Orbax's in 1.0."""
    save: Any = getattr(v1, "save", None) or v1.save_pytree
    save(path.absolute(), parameters())


def read_v1(path: Path) -> Any:
    """Reads the tree by the new interface."""
    load: Any = getattr(v1, "load", None) or v1.load_pytree
    return load(path.absolute())


if __name__ == "__main__":
    for name, write in {"old": write_old, "v1": write_v1}.items():
        directory = Path(sys.argv[1]) / name
        directory.mkdir(parents=True)
        CONFIG.save_json_file(directory / "config.json")
        write(directory / "params")
