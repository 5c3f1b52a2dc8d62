"""What the models return. Letters in shapes are those of modeling.py."""

import flax.struct
from jaxtyping import Array, Float


@flax.struct.dataclass
class TimesformerModelOutput:
    """What `TimesformerModel` returns; None for what was not asked for.

    Attributes:
        last_hidden_state: after the final norm, (b, 1 + n*t, d): CLS, then patch by patch, frame by frame. With
            space-only attention the mean over the frames, (b, 1 + n, d).
        hidden_states: the embedding and the output of each layer, like `last_hidden_state`; with space-only
            attention (b, t, 1 + n, d).
        attentions: of each layer, the spatial probabilities (b, t, h, 1 + n, 1 + n); with joint attention
            (b, h, 1 + n*t, 1 + n*t); with axial attention those over height, (b, t * columns, h, 1 + rows, 1 + rows),
            group by group of token_groups.py, CLS first; with sparse local-global attention those over the lattice,
            (b, groups, h, 1 + m, 1 + m), zero where a group of an odd length is padded.
        temporal_attentions: of each layer of divided and of axial attention, (b, n, h, t, t).
        width_attentions: of each layer of axial attention, (b, t * rows, h, 1 + columns, 1 + columns), CLS first.
        local_attentions: of each layer of sparse local-global attention, (b, n, h, t, window): each patch's on the
            window around it, row by row, column by column, frame by frame.
    """

    last_hidden_state: Float[Array, "b s d"]
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    temporal_attentions: tuple[Array, ...] | None = None
    width_attentions: tuple[Array, ...] | None = None
    local_attentions: tuple[Array, ...] | None = None


@flax.struct.dataclass
class TimesformerClassifierOutput:
    """What `TimesformerForVideoClassification` returns; None for what was not asked for.

    Attributes:
        logits: one row a clip, (b, num_labels), float32 or better.
        loss: mean over the batch, when labels were given.
        hidden_states: as in `TimesformerModelOutput`, and so are the others.
    """

    logits: Float[Array, "b labels"]
    loss: Float[Array, ""] | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    temporal_attentions: tuple[Array, ...] | None = None
    width_attentions: tuple[Array, ...] | None = None
    local_attentions: tuple[Array, ...] | None = None
