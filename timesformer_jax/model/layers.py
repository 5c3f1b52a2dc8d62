"""The Flax modules of one layer, and those before it: embeddings, attention, MLP, encoder layer.

Between layers the tokens of a clip are two arrays: patches (b, n, t, d), and CLS apart from them, (b, 1, 1, d) for
the clip or (b, 1, t, d) where each frame has its own (space-only). Letters are those of modeling.py.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.spmd import with_logical_constraint
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..activations import ACTIVATIONS
from ..position_embeddings import resize_space_embedding, resize_time_embedding
from ..schemes import SPACE, AttentionStep, attention_steps, has_position_embeddings, has_time_embeddings
from .attention import Attend
from .embeddings import extract_patches
from .implementations import attend_in_groups
from .module import TimesformerModule, uniform_init
from .token_groups import Grid, TokenGroups

Tokens = tuple[Float[Array, "b 1 t_cls d"], Float[Array, "b n t d"]]
"""CLS and patches."""


class TimesformerEmbeddings(TimesformerModule):
    """Patches of pixels to tokens, with the space and time embeddings added (equation 1 of the paper)."""

    @nn.compact
    def __call__(self, pixel_values: Float[Array, "b frames height width c"], *, train: bool = False) -> Tokens:
        """CLS and patches of each clip; embeddings are resized where the input is not the config's size."""
        config = self.config
        batch, num_frames, height, width, channels = pixel_values.shape
        patch_height, patch_width = config.patch_shape
        rows, columns = config.grid
        # The original leaves the patch projection at PyTorch's default for convolutions.
        uniform = uniform_init((patch_height * patch_width * channels) ** -0.5)
        project = self.dense(
            config.hidden_size, "patch_embeddings", axis=(-3, -2, -1), kernel_init=uniform, bias_init=uniform
        )
        cls_token = self.param("cls_token", self.weight_init(), (config.hidden_size,), self.param_dtype)
        cls_token = cls_token.astype(self.dtype)
        drop = nn.Dropout(config.hidden_dropout_prob, deterministic=not train)

        patches = project(extract_patches(pixel_values, config.patch_shape))  # (b, n, t, d)
        if has_position_embeddings(config):
            shape = (1 + rows * columns, config.hidden_size)
            space = self.param("position_embeddings", self.weight_init(), shape, self.param_dtype).astype(self.dtype)
            grid = (height // patch_height, width // patch_width)
            patches = patches + resize_space_embedding(space[1:], (rows, columns), grid)[:, None]
            cls_token = cls_token + space[0]
        patches = drop(patches)
        cls_frames = num_frames if config.attention_type == "space_only" else 1
        cls = drop(jnp.broadcast_to(cls_token, (batch, 1, cls_frames, config.hidden_size)))
        if has_time_embeddings(config):
            shape = (config.num_frames, config.hidden_size)
            time = self.param("time_embeddings", initializers.zeros, shape, self.param_dtype).astype(self.dtype)
            patches = drop(patches + resize_time_embedding(time, num_frames))
        return cls, patches


class TimesformerAttention(TimesformerModule):
    """Multi-head self-attention within groups of tokens (equations 2 to 8).

    Attributes:
        step: which tokens form a group.
        grid: rows and columns of patches.
        train: whether dropout acts.
        output_attentions: return the probabilities.
    """

    step: AttentionStep = SPACE
    grid: Grid = (1, 1)
    train: bool = False
    output_attentions: bool = False

    @nn.compact
    def __call__(
        self, cls: Float[Array, "b 1 t_cls d"] | None, patches: Float[Array, "b n t d"]
    ) -> tuple[Float[Array, "b 1 g ..."] | None, Float[Array, "b n t ..."], Float[Array, "..."] | None]:
        """What each group's copy of CLS gets (None where CLS takes no part), the patches, and the probabilities."""
        config = self.config
        groups = TokenGroups(self.step.groups, self.grid, patches.shape[2])
        drop = nn.Dropout(config.attention_probs_dropout_prob, deterministic=not self.train)
        drops = self.train and config.attention_probs_dropout_prob > 0
        project = self.dense((3, config.num_attention_heads, config.head_dim), "qkv", use_bias=config.qkv_bias)
        cls_qkv, qkv = jax.tree.map(project, (cls, patches))

        cls_values, values, probabilities = attend_in_groups(
            groups,
            cls_qkv,
            qkv,
            scale=self.scale,
            drop=drop if drops else None,
            precision=self.precision,
            implementation=self.attention_implementation,
            needs_probabilities=drops or self.output_attentions,
            watch=self.watched,
        )
        if cls_values is not None and self.step.groups != "frame":
            # As after the projection but for rounding, and CLS is projected once instead of a hundred times.
            cls_values = cls_values.mean(axis=2, keepdims=True)
        return *self.output((cls_values, values)), probabilities if self.output_attentions else None

    @property
    def scale(self) -> float:
        """What logits are multiplied with."""
        return self.config.head_dim**-0.5

    def output(self, values: Any) -> Any:
        """Joins the heads of CLS and of the patches (equation 8)."""
        project = self.dense(self.config.hidden_size, "output", axis=(-2, -1))
        drop = nn.Dropout(self.config.hidden_dropout_prob, deterministic=not self.train)
        return jax.tree.map(lambda heads: drop(project(heads)), values)

    def watched(self, attend: Attend) -> Attend:
        """Lets others see what is attended to, and ask for gradients there (see interpret/layer_attentions.py)."""
        names = (f"attended_{index}" for index in itertools.count())

        def watched(query: Array, key: Array, value: Array, **options: Any) -> tuple[Array, Array | None]:
            self.sow("intermediates", "groups", (query, key, value))
            values, probabilities = attend(query, key, value, **options)
            return self.perturb(next(names), values), probabilities

        return watched


class TimesformerMlp(TimesformerModule):
    """Two dense layers with an activation between them (equation 9)."""

    @nn.compact
    def __call__(self, tokens: Float[Array, "b s t d"], *, train: bool = False) -> Float[Array, "b s t d"]:
        """Each token by itself."""
        drop = nn.Dropout(self.config.hidden_dropout_prob, deterministic=not train)
        hidden = self.dense(self.config.intermediate_size, "intermediate")(tokens)
        hidden = drop(ACTIVATIONS[self.config.hidden_act](hidden))
        return drop(self.dense(self.config.hidden_size, "output")(hidden))


class TimesformerLayer(TimesformerModule):
    """One block of the encoder: the attention steps of its scheme (see schemes.py), then the MLP.

    Attributes:
        grid: rows and columns of patches.
        train: whether dropout and stochastic depth act.
        output_hidden_states: return the tokens after this layer.
        output_attentions: return the attention probabilities.
    """

    grid: Grid = (1, 1)
    train: bool = False
    output_hidden_states: bool = False
    output_attentions: bool = False

    @nn.compact
    def __call__(
        self, tokens: Tokens, drop_path_rate: Float[Array, ""]
    ) -> tuple[Tokens, tuple[Tokens | None, dict[str, Array | None]]]:
        """The tokens after this layer, and what was asked for: them once more, and probabilities by their outputs."""
        cls, patches = tokens
        # Else the width would follow the spread kernels that it meets.
        cls = with_logical_constraint(cls, ("batch", None, None, "hidden"))
        entering, attentions = (cls, patches), {}
        for step in attention_steps(self.config):
            patches = with_logical_constraint(patches, step.axes)
            seen = (cls, patches)
            if self.config.attention_order == "parallel":
                seen = (entering[0], with_logical_constraint(entering[1], step.axes))
            cls_residual, residual, attentions[step.returned] = self.attend(step, *seen, drop_path_rate)
            if cls_residual is not None:
                cls = cls + cls_residual
            patches = patches + residual
            if step.groups == "time":
                # Constrained on both sides of the turn, so that no product has to make it (in the backward pass, too).
                patches = with_logical_constraint(patches, step.axes)
        cls, patches = self.add_mlp((cls, patches), drop_path_rate)
        tokens = (cls, with_logical_constraint(patches, SPACE.axes))
        return tokens, (tokens if self.output_hidden_states else None, attentions)

    def attend(
        self, step: AttentionStep, cls: Array, patches: Array, drop_path_rate: Array
    ) -> tuple[Array | None, Any, Array | None]:
        """What a step adds to CLS (None: nothing) and to the patches (equation 8), and its probabilities."""
        norm = self.layer_norm(step.norm)
        attention = self.attention_class(step, patches)(
            **self.settings(),
            step=step,
            grid=self.grid,
            train=self.train,
            output_attentions=self.output_attentions,
            name=step.attention,
        )
        *residuals, probabilities = attention(norm(cls) if step.with_cls else None, norm(patches))
        branches = TokenGroups(step.groups, self.grid, patches.shape[2]).branches(patches.shape[0])
        cls_residual, residual = self.finish(step, residuals, self.drop_path(drop_path_rate, branches))
        if cls_residual is not None and cls.shape[2] < cls_residual.shape[2]:  # each frame had a copy of the clip's CLS
            cls_residual = cls_residual.mean(axis=2, keepdims=True)
        return cls_residual, residual, probabilities

    def attention_class(self, step: AttentionStep, patches: Array) -> type[TimesformerAttention]:
        """The module of a step's attention."""
        del step, patches
        return TimesformerAttention

    def finish(self, step: AttentionStep, residuals: list[Array | None], scale: Array | int) -> list[Any]:
        """Stochastic depth, and the dense layer that a step may end in.

        The dense layer comes last, so that its bias stays; its kernel starts at zero, so that training starts from the
        ViT.
        """
        if step.dense is None:
            return jax.tree.map(lambda residual: residual * scale, residuals)
        dense = self.dense(self.config.hidden_size, step.dense, kernel_init=initializers.zeros)
        return jax.tree.map(lambda residual: dense(residual * scale), residuals)

    def add_mlp(self, tokens: Any, drop_path_rate: Array) -> Any:
        """The MLP on each token, and the residual around it (equation 9)."""
        norm, mlp = self.layer_norm("layernorm_after"), TimesformerMlp(**self.settings(), name="mlp")
        scale = self.drop_path(drop_path_rate, (tokens[0].shape[0], 1, tokens[0].shape[2], 1))
        return jax.tree.map(lambda part: part + scale * mlp(norm(part), train=self.train), tokens)

    def drop_path(self, rate: Array, shape: tuple[int, ...]) -> Array | int:
        """1, or in training one random scale for each branch of `shape` (see `stochastic_depth_scale`)."""
        if not self.train or self.config.drop_path_rate == 0:
            return 1
        return stochastic_depth_scale(self.make_rng("dropout"), rate, shape, self.dtype)


def stochastic_depth_scale(
    key: Array, rate: Float[Array, ""] | float, shape: tuple[int, ...], dtype: DTypeLike
) -> Float[Array, "..."]:
    """What a residual branch is multiplied with in training: 0 with probability `rate`, else 1 / (1 - rate).

    Args:
        key: random key.
        rate: probability that a branch is dropped, in [0, 1); may be traced.
        shape: one number for each branch that is dropped or kept on its own, 1 on the other axes.
        dtype: type of the result.
    """
    keep = 1 - rate
    return (jax.random.bernoulli(key, keep, shape) / keep).astype(dtype)
