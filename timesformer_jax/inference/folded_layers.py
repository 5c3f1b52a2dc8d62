"""The layers of the folded model: those of model/layers.py over what folding.py makes, and a last one for CLS alone."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.spmd import with_logical_constraint
from jaxtyping import Array, Float

from ..kernels.cpu import computed_before
from ..kernels.ring import spread_cls_attention
from ..model.attention import softmax_attention, split_projections
from ..model.implementations import ring_axes
from ..model.layers import TimesformerAttention, TimesformerLayer, Tokens
from ..model.token_groups import TokenGroups
from ..schemes import AttentionStep, steps_for_cls


class FoldedAttention(TimesformerAttention):
    """Attention whose queries are scaled already, and whose projections have the biases of the norms before them."""

    @property
    def scale(self) -> float:
        """What logits are multiplied with."""
        return 1.0

    def dense(self, features: int | tuple[int, ...], name: str, **options: Any) -> nn.DenseGeneral:
        """A matrix product and a bias, into which that of the norm before it is folded."""
        return super().dense(features, name, **(options | {"use_bias": True}))


class AttentionOfCls(FoldedAttention):
    """CLS alone attends: a row of logits a head and group, whatever the number of tokens."""

    @nn.compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, cls: Float[Array, "b 1 t_cls d"], patches: Float[Array, "b n t d"]
    ) -> tuple[Float[Array, "b 1 t_cls d"], None, None]:
        """What CLS gets."""
        groups = TokenGroups(self.step.groups, self.grid, patches.shape[2])
        heads = (self.config.num_attention_heads, self.config.head_dim)
        query = self.dense((1, *heads), "query")(cls)
        key_values = jax.tree.map(self.dense((2, *heads), "key_value"), (cls, patches))
        if ring_axes(groups, self.attention_implementation):
            values = spread_cls_attention(query, key_values, scale=self.scale, precision=self.precision)
        else:
            parts = zip(*map(split_projections, key_values), strict=True)
            (key,), (value,) = (groups.gather(*part) for part in parts)
            (mask,) = groups.masks()
            rows = jnp.einsum("bxthk->bthxk", query[:, :, :, 0])  # a row for each frame's CLS, or one for the clip's
            rows = jnp.broadcast_to(rows, (*key.shape[:3], 1, key.shape[4]))
            values, _ = softmax_attention(rows, key, value, scale=self.scale, mask=mask, precision=self.precision)
            values = jnp.einsum("bghxk->bxghk", values)
            if cls.shape[2] == 1:
                values = values.mean(axis=2, keepdims=True)
        return self.output(values), None, None


class FoldedLayer(TimesformerLayer):
    """`TimesformerLayer` without what is folded into its projections: scales and biases of norms, and dense layers."""

    def layer_norm(self, name: str, **options: Any) -> Any:
        """A LayerNorm without scale and bias."""
        return super().layer_norm(name, use_scale=False, use_bias=False, **options)

    def attention_class(self, step: AttentionStep, patches: Array) -> type[TimesformerAttention]:
        """The module of a step's attention."""
        del step, patches
        return FoldedAttention

    def finish(self, step: AttentionStep, residuals: list[Array | None], scale: Array | int) -> list[Any]:
        """The residuals as they are: the dense layer is part of the output projection."""
        del step, scale
        return residuals


class LastFoldedLayer(FoldedLayer):
    """The last layer, which computes CLS alone once it has keys and values: only CLS reaches the classifier.

    Steps that CLS does not depend on (temporal attention after the spatial one, or beside it) are left out.
    """

    @nn.compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, tokens: Tokens, drop_path_rate: Float[Array, ""]
    ) -> tuple[Tokens, None]:
        """CLS after this layer; the patches as the last step meets them."""
        # Kept apart: for patches that only a norm reads, XLA on a CPU would compute the MLP before it once more.
        cls, patches = tokens[0], computed_before(tokens[1])
        for step in steps_for_cls(self.config):
            patches = with_logical_constraint(patches, step.axes)
            cls_residual, residual, _ = self.attend(step, cls, patches, drop_path_rate)
            cls = cls if cls_residual is None else cls + cls_residual
            patches = patches if residual is None else patches + residual
        (cls,) = self.add_mlp((cls,), drop_path_rate)
        return (cls, patches), None

    def attention_class(self, step: AttentionStep, patches: Array) -> type[TimesformerAttention]:
        """The module of a step's attention: the last is that of CLS."""
        last = step is steps_for_cls(self.config)[-1]
        return AttentionOfCls if last else super().attention_class(step, patches)
