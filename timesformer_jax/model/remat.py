"""What the backward pass keeps of the layers, and what it computes again: memory against time.

"none"   keep everything
"dots"   keep what dense layers give; attention, norms and activations are computed again (nearly for nothing)
"full"   keep what enters each layer, and compute whole layers again
"clips"  as "full", and one clip of the batch after the other: no more memory than a single clip needs in a layer.
         For one device; a batch that is spread over several is small on each of them already.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from ..config import Remat

Apply = Callable[[nn.Module, Any, Any], tuple[Any, Any]]
"""Applies a layer to the tokens of a batch: (layer, tokens, input of its own) to (tokens, further outputs)."""


def scan_layers(remat: Remat, length: int) -> Apply:
    """Applies layers one after the other, as one compiled body over parameters stacked along a leading axis.

    Args:
        remat: see above.
        length: how many layers.

    Returns:
        A function of the layer's module, the tokens and one further input for each layer, stacked; it gives the
        tokens after the last layer and all further outputs, stacked.
    """

    def apply(layer: Any, tokens: Any, own: Any) -> tuple[Any, Any]:
        return layer(tokens, own)

    body: Any = apply
    if remat != "none":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
        # In a scan nothing is moved across iterations, so guards against it would only cost time.
        body = nn.remat(apply, policy=policy, prevent_cse=False)
    if remat == "clips":
        body = _clip_by_clip(body)
    return nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True}, length=length)


def _clip_by_clip(apply: Apply) -> Apply:
    def batched(layer: nn.Module, tokens: Any, own: Any) -> tuple[Any, Any]:
        def one(layer: nn.Module, _: None, clip: Any) -> tuple[None, Any]:
            return None, apply(layer, clip, own)

        split: Any = nn.scan(one, variable_broadcast="params", split_rngs={"params": False, "dropout": True})
        clips = jax.tree.map(lambda leaf: leaf[:, None], tokens)
        return jax.tree.map(lambda leaf: leaf[:, 0], split(layer, None, clips)[1])

    return batched
