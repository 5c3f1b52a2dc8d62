"""Fingerprints of arrays: a damaged or changed array has another one."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


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
