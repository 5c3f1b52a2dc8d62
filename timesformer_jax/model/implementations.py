"""Attention on the devices at hand: `softmax_attention` or a kernel in its place, in groups or round a ring of devices.

All of them give what `softmax_attention` and `grouped_attention` give, but for rounding.
"""

import functools
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from ..config import AttentionImplementation
from ..kernels.choice import attention_without_matrix, choose_implementation
from ..kernels.ring import ring_attention
from ..sharding import axes_in_use, devices_along
from .attention import Attend, DropProbabilities, Precision, grouped_attention, softmax_attention
from .token_groups import Mask, TokenGroups


def attend(
    query: Float[Array, "b g h q k"],
    key: Float[Array, "b g h s k"],
    value: Float[Array, "b g h s k"],
    *,
    scale: float,
    mask: Mask | None = None,
    drop: DropProbabilities | None = None,
    precision: Precision = None,
    implementation: AttentionImplementation = "auto",
    needs_probabilities: bool = False,
) -> tuple[Float[Array, "b g h q k"], Float[Array, "b g h q s"] | None]:
    """`softmax_attention`, computed as `choose_implementation` says.

    With a mask it is "plain" whatever was asked for: the others know none, and what is masked here is small.

    Returns:
        The attended values; the probabilities where they were held.
    """
    chosen = choose_implementation(implementation, key.shape[-2], needs_probabilities=needs_probabilities)
    if mask is not None or chosen == "plain":
        return softmax_attention(query, key, value, scale=scale, mask=mask, drop=drop, precision=precision)
    return attention_without_matrix(chosen, query, key, value, scale=scale, precision=precision), None


def attend_in_groups(
    groups: TokenGroups,
    cls_qkv: Float[Array, "b 1 t_cls 3 h k"] | None,
    qkv: Float[Array, "b n t 3 h k"],
    *,
    watch: Callable[[Attend], Attend],
    implementation: AttentionImplementation,
    needs_probabilities: bool,
    **options: Any,
) -> tuple[Float[Array, "b 1 g h k"] | None, Float[Array, "b n t h k"], Float[Array, "..."] | None]:
    """`grouped_attention` by `attend`; round a ring of devices where these share a clip's frames.

    `watch` is laid around what attends within groups, to see it; for the others see `grouped_attention` and `attend`.
    """
    axes = ring_axes(groups, implementation)
    if axes and not needs_probabilities:
        assert cls_qkv is not None
        return *ring_attention(cls_qkv, qkv, axes, scale=options["scale"], precision=options["precision"]), None
    compute = functools.partial(attend, implementation=implementation, needs_probabilities=needs_probabilities)
    return grouped_attention(groups, cls_qkv, qkv, attend=watch(compute), **options)


def ring_axes(groups: TokenGroups, implementation: AttentionImplementation) -> tuple[str, ...]:
    """The mesh axes whose devices share the frames of whole clips evenly; none where attention needs no ring."""
    axes = axes_in_use("parallel") if groups.kind == "clip" and implementation in ("auto", "blocks") else ()
    return axes if groups.frames % devices_along(axes) == 0 else ()
