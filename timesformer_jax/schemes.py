"""The paper's five attention schemes (section 3, figure 2): which attention steps a block takes before its MLP.

    divided_space_time    time, then space (or as `attention_order` says)
    joint_space_time      all tokens of the clip
    space_only            space
    sparse_local_global   a dense neighbourhood, then a sparse lattice over the whole clip
    axial                 time, then width, then height

Each step has a norm, queries, keys, values and an output projection of its own, and a residual around it. The code of
the last two schemes was never released; where the paper's text leaves them open, they follow the code of divided
attention, the scheme of the paper's that is nearest:

- The last step is the ViT's own attention: its parameters are called and laid out as those of spatial attention, and
  an image model starts it. Every step before it ends in a further dense layer, which starts at zero, so that training
  begins as if the step were not there. (For divided attention that is `temporal_dense`.) This meets the paper's counts:
  with the 174 classes of Something-Something V2, 121,392,558 parameters for divided and for sparse local-global
  attention and 156,846,510 for axial, its 121.4M and 156.8M.
- Steps over time alone and over neighbourhoods leave CLS out, as divided attention's temporal step does: CLS has no
  place in space or time, so it has no neighbours. In steps over rows, columns and the lattice it takes part, as in
  divided attention's spatial step: each group of tokens that see each other gets a copy of the clip's CLS, to attend
  and to be attended to, and the copies' results are averaged. So CLS sees every token of the clip in one step, at the
  cost of one row of logits a group.
- The mean is taken before the output projection, which is the same as after it but for rounding, and CLS is projected
  once instead of a hundred times.
- Stochastic depth drops the whole branch of a clip in the steps over neighbourhoods, lattice, rows and columns, as it
  does in the MLP. (The finer grain of divided attention, where each frame is dropped by itself, comes from how the code
  of the paper folds frames into the batch.)

What the tokens see in the new steps, and how that is computed, is in model/token_groups.py.
"""

import dataclasses
from typing import Literal

from .config import TimesformerConfig

GroupKind = Literal["time", "frame", "clip", "row", "column", "lattice", "window"]
"""What makes a group of tokens that see each other, see model/token_groups.py."""

# Logical axes of (batch, n, t, hidden): along "attended" tokens see each other, along "parallel" they don't.
_OVER_TIME = ("batch", "parallel", "attended", "hidden")
_OVER_SPACE = ("batch", "attended", "parallel", "hidden")
_OVER_BOTH = ("batch", None, None, "hidden")


@dataclasses.dataclass(frozen=True)
class AttentionStep:
    """One attention of a block.

    Attributes:
        groups: which tokens see each other.
        axes: logical axes of the patches (see sharding.py) while they do.
        attention: the name of its queries, keys, values and output projection among the parameters.
        norm: the name of the LayerNorm before it.
        dense: the name of the dense layer after it, zero at first; None where the ViT's own attention is.
        returned: the output of the model that its probabilities are returned in.
        with_cls: whether CLS takes part.
    """

    groups: GroupKind
    axes: tuple[str | None, ...]
    attention: str
    norm: str
    dense: str | None
    returned: str
    with_cls: bool = True


TIME = AttentionStep(
    groups="time",
    axes=_OVER_TIME,
    attention="temporal_attention",
    norm="temporal_layernorm",
    dense="temporal_dense",
    returned="temporal_attentions",
    with_cls=False,
)
SPACE = AttentionStep(
    groups="frame",
    axes=_OVER_SPACE,
    attention="attention",
    norm="layernorm_before",
    dense=None,
    returned="attentions",
)
_WIDTH = AttentionStep(
    groups="row",
    axes=_OVER_SPACE,
    attention="width_attention",
    norm="width_layernorm",
    dense="width_dense",
    returned="width_attentions",
)
_LOCAL = AttentionStep(
    groups="window",
    axes=_OVER_BOTH,
    attention="local_attention",
    norm="local_layernorm",
    dense="local_dense",
    returned="local_attentions",
    with_cls=False,
)

_STEPS: dict[str, tuple[AttentionStep, ...]] = {
    "divided_space_time": (TIME, SPACE),
    "joint_space_time": (dataclasses.replace(SPACE, groups="clip"),),
    "space_only": (SPACE,),
    "sparse_local_global": (_LOCAL, dataclasses.replace(SPACE, groups="lattice", axes=_OVER_BOTH)),
    "axial": (TIME, _WIDTH, dataclasses.replace(SPACE, groups="column")),
}


def attention_steps(config: TimesformerConfig) -> tuple[AttentionStep, ...]:
    """The steps of a block, in the order in which they are computed."""
    steps = _STEPS[config.attention_type]
    return steps[::-1] if config.attention_order == "space_time" else steps


def steps_for_cls(config: TimesformerConfig) -> tuple[AttentionStep, ...]:
    """The steps of the last block that CLS depends on; of the last of them it needs nothing but its own row."""
    steps = attention_steps(config)
    if config.attention_order == "parallel":
        return tuple(step for step in steps if step.with_cls)
    last = max(index for index, step in enumerate(steps) if step.with_cls)
    return steps[: last + 1]


def step_of_cls(config: TimesformerConfig) -> AttentionStep:
    """The step that is the ViT's own attention, the one through which CLS reads."""
    (step,) = (step for step in attention_steps(config) if step.dense is None)
    return step


def has_temporal_attention(config: TimesformerConfig) -> bool:
    """Whether there is a step over time alone."""
    return TIME in attention_steps(config)


def has_position_embeddings(config: TimesformerConfig) -> bool:
    """Whether places in a frame have embeddings, and CLS one of its own among them."""
    return config.position_embedding_type != "none"


def has_time_embeddings(config: TimesformerConfig) -> bool:
    """Whether frames have embeddings; with space-only attention they never do."""
    return config.position_embedding_type == "space_time" and config.attention_type != "space_only"


def unknown_to_transformers(config: TimesformerConfig) -> str | None:
    """What of a config Transformers has no model for; None where it has one."""
    if config.attention_type not in ("divided_space_time", "joint_space_time", "space_only"):
        return f"attention_type {config.attention_type!r}"
    if config.attention_order != "time_space":
        return f"attention_order {config.attention_order!r}"
    with_time = has_time_embeddings(config) or config.attention_type == "space_only"
    if not (has_position_embeddings(config) and with_time):
        return f"position_embedding_type {config.position_embedding_type!r}"
    return None
