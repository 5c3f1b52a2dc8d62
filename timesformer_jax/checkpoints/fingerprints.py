"""Fingerprints of arrays: a damaged or changed array has another one."""

import dataclasses
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from ..config import TimesformerConfig
from ..support.agreement import settings
from ..video.processing import VideoProcessor


def fingerprints(tree: Any) -> dict[str, int]:
    """A number for each array of a tree: any single change changes it, and the devices of the array don't matter."""
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }
    return {name: int(value) for name, value in jax.device_get(_fingerprints(named)).items()}


@jax.jit
def _fingerprints(leaves: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    return {name: _fingerprint(leaf) for name, leaf in leaves.items()}


def _fingerprint(leaf: Array) -> UInt32[Array, ""]:
    """The sum of all words, each times an odd number of its own, modulo 2**32: exact in any order."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    weights = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(words.shape):
        position = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        weights = weights * jnp.uint32(size) + position
    return jnp.sum(words * (2 * weights + 1), dtype=jnp.uint32)


def different(saved: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """The names of the arrays whose fingerprints differ."""
    return sorted(name for name in saved.keys() | found.keys() if saved.get(name) != found.get(name))


def digest(tree: Any) -> str:
    """A short text that tells the arrays of this process from others: by their names, types, shapes and bytes."""

    def hashed(item: tuple[Any, Any]) -> bytes:
        array = np.ascontiguousarray(item[1])
        about = f"{jax.tree_util.keystr(item[0])} {array.dtype} {array.shape}"
        return hashlib.sha256(about.encode() + hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()).digest()

    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        return hashlib.sha256(b"".join(pool.map(hashed, jax.tree.leaves_with_path(tree)))).hexdigest()[:16]


def model_facts(
    config: TimesformerConfig, processor: VideoProcessor, params: Any | None, source: str
) -> dict[str, str]:
    """Facts about a model that all processes of a job must share.

    Args:
        config: of the model.
        processor: its preprocessing.
        params: its parameters before they are placed on devices; None where a checkpoint of the run has them.
        source: where they come from, which is told but may differ.
    """
    values = config.to_dict()
    classes = hashlib.sha256("\n".join(str(values.pop(name, "")) for name in ("id2label", "label2id")).encode())
    weights = "that of the run's last checkpoint" if params is None else digest(params)
    facts = settings({"the model's": values, "the processor's": dataclasses.asdict(processor)})
    return {
        **{
            name.replace("the model's.", "the model's ").replace("the processor's.", "the processor's "): value
            for name, value in facts.items()
        },
        "the digest of the model's classes": classes.hexdigest()[:16],
        "the digest of the weights at the start": f"{weights}\nfrom {source}",
    }
