"""A tiny Flax model of rectangular frames with random parameters, for what needs no reference beside it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification

BATCH, FRAMES, ROWS, COLUMNS, HEADS, LAYERS = 2, 3, 2, 4, 3, 2


def tiny_flax(
    attention_type: Any, kind: Any = TimesformerForVideoClassification, dtype: Any = jnp.float64, **config: Any
) -> tuple[Any, Any]:
    """A model and its parameters."""
    fields: dict[str, Any] = {
        "image_size": (4 * ROWS, 4 * COLUMNS), "patch_size": 4, "num_frames": FRAMES, "hidden_size": 24,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 40, "num_labels": 7,
        "attention_type": attention_type,
    }  # fmt: skip
    model = kind(TimesformerConfig(**fields | config), dtype=dtype, param_dtype=dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, FRAMES, 4 * ROWS, 4 * COLUMNS, 3)))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    random = np.random.default_rng(0)
    # Queries and keys large enough for attention to differ from place to place.
    arrays = [jnp.asarray(random.normal(size=leaf.shape) * 0.4, dtype) for leaf in leaves]
    return model, jax.tree.unflatten(tree, arrays)


def clips(frames: int = FRAMES) -> np.ndarray:
    """Random pixel values."""
    return np.random.default_rng(1).normal(size=(BATCH, frames, 4 * ROWS, 4 * COLUMNS, 3))
