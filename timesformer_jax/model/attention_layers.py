"""The Flax modules of attention: projections around the pure functions of attention.py and neighbourhoods.py."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..schemes import SPACE, Step
from ..sharding import axes_in_use
from .attention import choose_implementation, cls_attention, spatial_attention, temporal_attention
from .module import TimesformerModule
from .neighbourhood_attention import grouped_attention, grouped_cls_attention, window_attention
from .ring import ring_attention, spread_cls_attention
from .token_groups import Grid


class TimesformerAttention(TimesformerModule):
    """Multi-head self-attention along one axis of the tokens: projections around one of attention.py's functions.

    Attributes:
        cls_only: only the first token attends (to all): what the last layer needs for logits. Folded parameters alone.
        output_attentions: return the probabilities.
        projects: whether the output projection is part of it; else the heads' values are given back, (b, s, t, h, k).
    """

    cls_only: bool = False
    output_attentions: bool = False
    projects: bool = True

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b s t d"] | tuple[Array, Array], *, temporal: bool = False, train: bool = False
    ) -> tuple[Any, Float[Array, "..."] | None]:
        """Attention over frames (temporal) or over the tokens of a frame; the probabilities, if they are asked for.

        CLS and patches apart from each other are those of joint attention, with frames that are spread over devices.
        """
        config = self.config
        drops = train and config.attention_probs_dropout_prob > 0
        drop = nn.Dropout(config.attention_probs_dropout_prob, deterministic=not train)
        heads = (config.num_attention_heads, config.head_dim)
        scale = 1.0 if self.folded else config.head_dim**-0.5
        use_bias = config.qkv_bias or self.folded  # the norm's bias is folded into this one
        probabilities = None
        if self.cls_only:
            cls = tokens[0] if isinstance(tokens, tuple) else tokens[:, :1]
            query = self.dense((1, *heads), "query", use_bias=use_bias)(cls)
            key_value = jax.tree.map(self.dense((2, *heads), "key_value", use_bias=use_bias), tokens)
            attend_from_cls = spread_cls_attention if isinstance(tokens, tuple) else cls_attention
            values = attend_from_cls(query, key_value, scale=scale, precision=self.precision)
        elif isinstance(tokens, tuple):
            cls_qkv, qkv = jax.tree.map(self.dense((3, *heads), "qkv", use_bias=use_bias), tokens)
            values = ring_attention(cls_qkv, qkv, axes_in_use("parallel"), scale=scale, precision=self.precision)
        else:
            qkv = self.dense((3, *heads), "qkv", use_bias=use_bias)(tokens)
            attend = temporal_attention if temporal else spatial_attention
            implementation = choose_implementation(
                self.attention_implementation,
                tokens.shape[2 if temporal else 1],
                needs_probabilities=drops or self.output_attentions,
            )
            values, probabilities = attend(
                qkv,
                scale=scale,
                drop=drop if drops else None,
                precision=self.precision,
                implementation=implementation,
            )
        if not self.projects:
            return values, probabilities if self.output_attentions else None
        output = jax.tree.map(self.dense(config.hidden_size, "output", axis=(-2, -1)), values)
        if not isinstance(output, tuple):
            output = nn.Dropout(config.hidden_dropout_prob, deterministic=not train)(output)
        return output, probabilities if self.output_attentions else None


class NeighbourhoodAttention(TimesformerModule):
    """Multi-head self-attention of sparse local-global and axial attention: one step of schemes.py.

    Attributes:
        step: which tokens see each other.
        grid: rows and columns of patches.
        cls_only: only CLS attends: what the last layer needs for logits. Folded parameters alone.
        output_attentions: return the probabilities.
    """

    step: Step = SPACE
    grid: Grid = (1, 1)
    cls_only: bool = False
    output_attentions: bool = False

    @nn.compact
    def __call__(
        self, cls: Float[Array, "b 1 1 d"], patches: Float[Array, "b n t d"], *, train: bool = False
    ) -> tuple[Float[Array, "b 1 1 d"] | None, Float[Array, "b n_left t d"], Float[Array, "..."] | None]:
        """What CLS (None where it takes no part) and the patches get; the probabilities, if they are asked for."""
        config = self.config
        drops = train and config.attention_probs_dropout_prob > 0
        drop = nn.Dropout(config.attention_probs_dropout_prob, deterministic=not train)
        heads = (config.num_attention_heads, config.head_dim)
        implementation = self.attention_implementation
        if drops or self.output_attentions:
            implementation = choose_implementation(implementation, 1, needs_probabilities=True)
        options: Any = {"scale": 1.0 if self.folded else config.head_dim**-0.5, "precision": self.precision}
        use_bias = config.qkv_bias or self.folded  # the norm's bias is folded into this one
        cls_values, probabilities = None, None
        if self.cls_only:
            query = self.dense((1, *heads), "query", use_bias=use_bias)(cls)
            key_value = self.dense((2, *heads), "key_value", use_bias=use_bias)
            cls_values = grouped_cls_attention(
                query, key_value(cls), key_value(patches), self.step.reach, self.grid, **options
            )
            values = jnp.zeros((patches.shape[0], 0, patches.shape[2], *heads), cls_values.dtype)
        else:
            options |= {"drop": drop if drops else None, "implementation": implementation}
            qkv = self.dense((3, *heads), "qkv", use_bias=use_bias)
            if self.step.with_cls:
                cls_values, values, probabilities = grouped_attention(
                    qkv(cls), qkv(patches), self.step.reach, self.grid, **options
                )
            else:
                values, probabilities = window_attention(
                    qkv(patches), self.grid, needs_probabilities=self.output_attentions, **options
                )
        project = self.dense(config.hidden_size, "output", axis=(-2, -1))
        drop_output = nn.Dropout(config.hidden_dropout_prob, deterministic=not train)
        return (
            None if cls_values is None else drop_output(project(cls_values)),
            drop_output(project(values)),
            probabilities if self.output_attentions else None,
        )
