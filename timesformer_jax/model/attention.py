"""Attention as pure functions: softmax attention, and attention within groups of tokens.

Letters are those of modeling.py; q counts tokens that attend, s those attended to.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .token_groups import TokenGroups

Precision = jax.lax.PrecisionLike
DropProbabilities = Callable[[Float[Array, "..."]], Float[Array, "..."]]
Attend = Callable[..., tuple[Array, Array | None]]
"""`softmax_attention`, or what stands in for it."""


def softmax_attention(
    query: Float[Array, "*b h q k"],
    key: Float[Array, "*b h s k"],
    value: Float[Array, "*b h s k"],
    *,
    scale: float | None = None,
    mask: Bool[Array | np.ndarray, "..."] | None = None,
    drop: DropProbabilities | None = None,
    precision: Precision = None,
) -> tuple[Float[Array, "*b h q k"], Float[Array, "*b h q s"]]:
    """Softmax(query keyᵀ / sqrt(k)) value: equations 5 and 7 of the paper.

    Logits and softmax are at least float32, whatever the inputs are. The values are divided by the softmax's sum, not
    the probabilities: there are fewer of them. (Probabilities that nobody uses are never made under `jax.jit`.)

    Args:
        query: one row a token that attends.
        key: one row a token attended to.
        value: one row a token attended to.
        scale: of the logits; None is 1 / sqrt(k).
        mask: of the logits, and broadcast to them: False where a token is not to be seen. Every row sees one at least.
        drop: applied to the probabilities (dropout in training).
        precision: of the two matrix products.

    Returns:
        The attended values and the probabilities, in the inputs' type.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    exact = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.matmul(query, key.mT, precision=precision, preferred_element_type=exact)
    if factor != 1:
        logits = logits * factor
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    if drop is not None:
        weights, total = drop(weights / total), jnp.ones_like(total)
    values = jnp.matmul(weights.astype(value.dtype), value, precision=precision, preferred_element_type=exact) / total
    return values.astype(value.dtype), (weights / total).astype(value.dtype)


def grouped_attention(
    groups: TokenGroups,
    cls_qkv: Float[Array, "b 1 t_cls 3 h k"] | None,
    qkv: Float[Array, "b n t 3 h k"],
    *,
    attend: Attend = softmax_attention,
    **options: Any,
) -> tuple[Float[Array, "b 1 g h k"] | None, Float[Array, "b n t h k"], Float[Array, "..."] | None]:
    """Each token attends to the tokens of its group.

    Args:
        groups: which tokens see each other.
        cls_qkv: query, key and value of CLS: of the clip's, which is copied into each group, or of each frame's. None
            where CLS takes no part.
        qkv: those of the patches.
        attend: computes the attention within groups from their queries, keys and values.
        **options: of `attend`.

    Returns:
        What each group's copy of CLS gets, what the patches get, and the probabilities as `TokenGroups.probabilities`
        lays them out (None where `attend` does not hold all of them).
    """
    cls_parts = (None,) * 3 if cls_qkv is None else split_projections(cls_qkv)
    parts = zip(cls_parts, split_projections(qkv), strict=True)
    query, key, value = (groups.gather(*part, seen=index > 0) for index, part in enumerate(parts))
    attended = [
        attend(*one, mask=mask, **options) for *one, mask in zip(query, key, value, groups.masks(), strict=True)
    ]
    cls_values, values = groups.scatter([values for values, _ in attended])
    held = [probabilities for _, probabilities in attended if probabilities is not None]
    return cls_values, values, groups.probabilities(held) if len(held) == len(attended) else None


def split_projections(projections: Float[Array, "b s t c h k"]) -> tuple[Float[Array, "b s t h k"], ...]:
    """Queries, keys and values (or some of them) apart.

    By `jax.lax.split`, whose gradient joins theirs, where that of slices adds up arrays padded with zeros.
    """
    return tuple(part.squeeze(3) for part in jax.lax.split(projections, (1,) * projections.shape[3], axis=3))
