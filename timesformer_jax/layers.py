"""The Flax modules of one layer, and those before it: embeddings, attention, MLP, encoder layer.

Between layers the tokens of a clip are two arrays: patches (b, n, t, d), and CLS apart from them, (b, 1, 1, d) for
the clip or (b, 1, t, d) where each frame has its own (space-only). Joint attention holds all its patches in a single
frame, (b, n*t, 1, d), which makes it the space-only layer with one frame; but for clips whose frames are spread evenly
over devices (see ring.py). Letters are those of modeling.py.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.spmd import with_logical_constraint
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .activations import ACTIVATIONS
from .attention import (
    Implementation,
    Precision,
    choose_implementation,
    cls_attention,
    spatial_attention,
    stochastic_depth_scale,
    temporal_attention,
)
from .config import TimesformerConfig
from .embeddings import extract_patches, resize_space_embedding, resize_time_embedding
from .rematerialization import Remat
from .ring import ring_attention, spread_cls_attention
from .sharding import axes_in_use, devices_along

Tokens = tuple[Float[Array, "b 1 t_cls d"], Float[Array, "b n t d"]]
"""CLS and patches."""

# Logical axes of (batch, n, t, hidden): along "attended" tokens see each other, along "parallel" they don't.
_TEMPORAL = ("batch", "parallel", "attended", "hidden")
_SPATIAL = ("batch", "attended", "parallel", "hidden")
_CLS = ("batch", None, None, "hidden")


class TimesformerModule(nn.Module):
    """What every module here is made with.

    Attributes:
        config: architecture.
        dtype: of the computation.
        param_dtype: of newly made parameters.
        precision: of matrix products ("highest" for parity: float32 on a TPU is bfloat16 otherwise).
        attention_implementation: see `choose_implementation` in attention.py.
        folded: whether the parameters are those of folding.py, for inference alone.
        remat: what the backward pass computes again instead of keeping it (see rematerialization.py).
    """

    config: TimesformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    attention_implementation: Implementation = "auto"
    folded: bool = False
    remat: Remat = "none"

    def numerics(self) -> dict[str, Any]:
        """The arguments that Flax's own layers have, too."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype, "precision": self.precision}

    def settings(self) -> dict[str, Any]:
        """What a module hands on to those inside it."""
        others = ("attention_implementation", "folded", "remat")
        return {"config": self.config, **self.numerics(), **{name: getattr(self, name) for name in others}}

    def weight_init(self) -> initializers.Initializer:
        """How kernels and embeddings start."""
        # The original cuts at -2 and 2 themselves, not at two standard deviations.
        deviation = self.config.initializer_range
        if deviation == 0:
            return initializers.zeros
        return initializers.truncated_normal(deviation, lower=-2 / deviation, upper=2 / deviation)

    def dense(
        self, features: int | tuple[int, ...], name: str, *, axis: int | tuple[int, ...] = -1, **options: Any
    ) -> nn.DenseGeneral:
        """A matrix product and a bias."""
        options = {"kernel_init": self.weight_init()} | self.numerics() | options
        return nn.DenseGeneral(features, axis=axis, name=name, **options)

    def layer_norm(self, name: str, dtype: DTypeLike | None = None) -> nn.LayerNorm:
        """A LayerNorm, without scale and bias where they are folded into the projection that follows."""
        # Not the "fast" variance E[x²] - E[x]², which cancels.
        return nn.LayerNorm(
            epsilon=self.config.layer_norm_eps,
            dtype=self.dtype if dtype is None else dtype,
            param_dtype=self.param_dtype,
            use_fast_variance=False,
            use_scale=not self.folded,
            use_bias=not self.folded,
            name=name,
        )


class TimesformerEmbeddings(TimesformerModule):
    """Patches of pixels to tokens, with the space and time embeddings added (equation 1 of the paper)."""

    @nn.compact
    def __call__(self, pixel_values: Float[Array, "b frames height width c"], *, train: bool = False) -> Tokens:
        """CLS and patches of each clip; embeddings are resized where the input is not the config's size."""
        config = self.config
        batch, num_frames, height, width, channels = pixel_values.shape
        patch_height, patch_width = config.patch_shape
        rows, columns = config.grid

        fan_in = patch_height * patch_width * channels
        project = self.dense(
            config.hidden_size,
            "patch_embeddings",
            axis=(-3, -2, -1),
            # The original leaves the patch projection at PyTorch's default for convolutions.
            kernel_init=_symmetric_uniform(fan_in**-0.5),
            bias_init=_symmetric_uniform(fan_in**-0.5),
        )
        cls_token = self.param("cls_token", self.weight_init(), (config.hidden_size,), self.param_dtype)
        space = self.param(
            "position_embeddings", self.weight_init(), (1 + rows * columns, config.hidden_size), self.param_dtype
        )
        cls_token, space = cls_token.astype(self.dtype), space.astype(self.dtype)
        drop = nn.Dropout(config.hidden_dropout_prob, deterministic=not train)

        patches = project(extract_patches(pixel_values, config.patch_shape))
        grid = (height // patch_height, width // patch_width)
        patches = drop(patches + resize_space_embedding(space[1:], (rows, columns), grid)[:, None])
        cls_frames = num_frames if config.attention_type == "space_only" else 1
        cls = drop(jnp.broadcast_to(cls_token + space[0], (batch, 1, cls_frames, config.hidden_size)))
        if config.attention_type != "space_only":
            time = self.param(
                "time_embeddings", initializers.zeros, (config.num_frames, config.hidden_size), self.param_dtype
            )
            patches = drop(patches + resize_time_embedding(time.astype(self.dtype), num_frames))
        # Frames that are spread over devices stay where they are.
        if config.attention_type == "joint_space_time" and not _spread_evenly(num_frames):
            patches = _in_one_frame(patches)
        return cls, patches


class TimesformerAttention(TimesformerModule):
    """Multi-head self-attention along one axis of the tokens: projections around one of attention.py's functions.

    Attributes:
        cls_only: only the first token attends (to all): what the last layer needs for logits. Folded parameters alone.
        output_attentions: return the probabilities.
    """

    cls_only: bool = False
    output_attentions: bool = False

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b s t d"] | Tokens, *, temporal: bool = False, train: bool = False
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
        output = jax.tree.map(self.dense(config.hidden_size, "output", axis=(-2, -1)), values)
        if not isinstance(output, tuple):
            output = nn.Dropout(config.hidden_dropout_prob, deterministic=not train)(output)
        return output, probabilities if self.output_attentions else None


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
    """One block of the encoder: temporal attention (divided only), spatial or joint attention, MLP.

    Attributes:
        train: whether dropout and stochastic depth act.
        output_hidden_states: return the tokens after this layer.
        output_attentions: return the attention probabilities.
        cls_only: give back CLS alone (and no patches): what the last layer needs for logits. Folded parameters alone.
    """

    train: bool = False
    output_hidden_states: bool = False
    output_attentions: bool = False
    cls_only: bool = False

    @nn.compact
    def __call__(
        self, tokens: Tokens, drop_path_rate: Float[Array, ""]
    ) -> tuple[tuple[Float[Array, "b 1 t_cls d"], Float[Array, "b n_left t d"]], tuple[Any, Any, Any]]:
        """The tokens after this layer, and what was asked for: them once more, attentions, temporal attentions."""
        cls, patches = tokens
        # Else the width would follow the spread kernels that it meets.
        cls = with_logical_constraint(cls, _CLS)
        batch, num_patches, num_frames, _ = patches.shape
        cls_frames = cls.shape[2]
        divided = self.config.attention_type == "divided_space_time"
        temporal_probabilities = None

        if divided:
            patches = with_logical_constraint(patches, _TEMPORAL)
            attention = TimesformerAttention(
                **self.settings(), output_attentions=self.output_attentions, name="temporal_attention"
            )
            residual, temporal_probabilities = attention(
                self.layer_norm("temporal_layernorm")(patches), temporal=True, train=self.train
            )
            residual = residual * self.drop_path(drop_path_rate, (batch, num_patches, 1, 1))
            if not self.folded:
                # After stochastic depth, so that the bias stays; zero at first, so that training starts from the ViT.
                temporal_dense = self.dense(self.config.hidden_size, "temporal_dense", kernel_init=initializers.zeros)
                residual = temporal_dense(residual)
            # Constrained on both sides of the turn, so that no product has to make it (in the backward pass, too).
            patches = with_logical_constraint(patches + residual, _TEMPORAL)

        patches = with_logical_constraint(patches, _SPATIAL)
        apart = self.config.attention_type == "joint_space_time" and num_frames > 1
        if apart and self.needs_whole_clips():
            apart, num_frames, patches = False, 1, _in_one_frame(patches)
        frame_cls = jnp.broadcast_to(cls, (batch, 1, num_frames, cls.shape[-1]))
        attention = TimesformerAttention(
            **self.settings(), cls_only=self.cls_only, output_attentions=self.output_attentions, name="attention"
        )
        norm = self.layer_norm("layernorm_before")
        if apart:
            (cls_residual, patches_residual), probabilities = attention((norm(cls), norm(patches)), train=self.train)
        else:
            residual, probabilities = attention(norm(jnp.concatenate([frame_cls, patches], axis=1)), train=self.train)
            cls_residual, patches_residual = residual[:, :1], residual[:, 1:]
        scale = self.drop_path(drop_path_rate, (batch, 1, 1 if apart else num_frames, 1))
        cls_residual, patches_residual = cls_residual * scale, patches_residual * scale
        if divided:  # each frame had a copy of the clip's CLS
            cls_residual = cls_residual.mean(axis=2, keepdims=True)
        cls, patches = cls + cls_residual, patches[:, : patches_residual.shape[1]] + patches_residual

        norm = self.layer_norm("layernorm_after")
        mlp = TimesformerMlp(**self.settings(), name="mlp")
        scale = self.drop_path(drop_path_rate, (batch, 1, cls_frames, 1))
        cls = cls + scale * mlp(norm(cls), train=self.train)
        patches = patches + scale * mlp(norm(patches), train=self.train)
        if patches.size:  # in one frame or in several, as they came
            patches = patches.reshape(tokens[1].shape)
        patches = with_logical_constraint(patches, _SPATIAL)

        tokens = (cls, patches)
        return tokens, (
            tokens if self.output_hidden_states else None,
            probabilities,
            temporal_probabilities,
        )

    def needs_whole_clips(self) -> bool:
        """Whether joint attention can't leave a clip's frames where they are (see ring.py), and gathers them."""
        config = self.config
        drops = self.train and max(config.hidden_dropout_prob, config.attention_probs_dropout_prob) > 0
        return drops or self.output_attentions or self.attention_implementation not in ("auto", "blocks")

    def drop_path(self, rate: Array, shape: tuple[int, ...]) -> Array | int:
        """1, or in training one random scale for each branch of `shape` (see `stochastic_depth_scale`)."""
        if not self.train or self.config.drop_path_rate == 0:
            return 1
        return stochastic_depth_scale(self.make_rng("dropout"), rate, shape, self.dtype)


def _in_one_frame(patches: Float[Array, "b n t d"]) -> Float[Array, "b s 1 d"]:
    return patches.reshape(patches.shape[0], -1, 1, patches.shape[-1])


def _spread_evenly(num_frames: int) -> bool:
    axes = axes_in_use("parallel")
    return bool(axes) and num_frames % devices_along(axes) == 0


def _symmetric_uniform(bound: float) -> initializers.Initializer:
    def init(key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> Array:
        del out_sharding  # parameters carry no metadata here
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
