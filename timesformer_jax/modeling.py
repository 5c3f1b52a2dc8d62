"""The Flax modules: embeddings, encoder layer, encoder, TimesformerModel and TimesformerForVideoClassification.

Letters in shapes, here and in the functions that the modules stand on:

    b  batch (clips)       t  frames               n  patches of a frame        s  tokens of a sequence, CLS included
    d  hidden width        h  attention heads      k  width of a head           c  colour channels

Between layers the tokens of a clip are two arrays: patches (b, n, t, d), and CLS apart from them, (b, 1, 1, d) for
the clip or (b, 1, t, d) where each frame has its own (space-only). Joint attention holds all its patches in a single
frame, (b, n*t, 1, d), which makes it the space-only layer with one frame.
"""

import operator
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.spmd import with_logical_constraint
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from .activations import ACTIVATIONS
from .attention import Precision, spatial_attention, stochastic_depth_scale, temporal_attention
from .config import TimesformerConfig
from .embeddings import check_pixel_values, extract_patches, resize_space_embedding, resize_time_embedding
from .losses import classification_loss
from .outputs import TimesformerClassifierOutput, TimesformerModelOutput
from .pretrained import PretrainedModel

Tokens = tuple[Float[Array, "b 1 t_cls d"], Float[Array, "b n t d"]]
"""CLS and patches."""

# Logical axes of (batch, n, t, hidden): along "attended" tokens see each other, along "parallel" they don't.
_TEMPORAL = ("batch", "parallel", "attended", "hidden")
_SPATIAL = ("batch", "attended", "parallel", "hidden")


class _Module(nn.Module):
    """What every module here is made with.

    Attributes:
        config: architecture.
        dtype: of the computation.
        param_dtype: of newly made parameters.
        precision: of matrix products ("highest" for parity: float32 on a TPU is bfloat16 otherwise).
    """

    config: TimesformerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None

    def numerics(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype, "precision": self.precision}

    def weight_init(self) -> initializers.Initializer:
        # The original cuts at -2 and 2 themselves, not at two standard deviations.
        deviation = self.config.initializer_range
        if deviation == 0:
            return initializers.zeros
        return initializers.truncated_normal(deviation, lower=-2 / deviation, upper=2 / deviation)

    def dense(
        self, features: int | tuple[int, ...], name: str, *, axis: int | tuple[int, ...] = -1, **options: Any
    ) -> nn.DenseGeneral:
        options = {"kernel_init": self.weight_init()} | self.numerics() | options
        return nn.DenseGeneral(features, axis=axis, name=name, **options)

    def layer_norm(self, name: str) -> nn.LayerNorm:
        # Not the "fast" variance E[x²] - E[x]², which cancels.
        return nn.LayerNorm(
            epsilon=self.config.layer_norm_eps,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            use_fast_variance=False,
            name=name,
        )


class TimesformerEmbeddings(_Module):
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
        if config.attention_type == "joint_space_time":
            patches = patches.reshape(batch, patches.shape[1] * num_frames, 1, config.hidden_size)
        return cls, patches


class TimesformerAttention(_Module):
    """Multi-head self-attention along one axis of the tokens: projections around one of attention.py's functions."""

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b s t d"], *, temporal: bool = False, train: bool = False
    ) -> tuple[Float[Array, "b s t d"], Float[Array, "..."]]:
        """Attention over frames (temporal) or over the tokens of a frame; also returns its probabilities."""
        config = self.config
        drop = nn.Dropout(config.attention_probs_dropout_prob, deterministic=not train)
        project = self.dense((3, config.num_attention_heads, config.head_dim), "qkv", use_bias=config.qkv_bias)
        attend = temporal_attention if temporal else spatial_attention
        values, probabilities = attend(project(tokens), drop=drop, precision=self.precision)
        output = self.dense(config.hidden_size, "output", axis=(-2, -1))(values)
        return nn.Dropout(config.hidden_dropout_prob, deterministic=not train)(output), probabilities


class TimesformerMlp(_Module):
    """Two dense layers with an activation between them (equation 9)."""

    @nn.compact
    def __call__(self, tokens: Float[Array, "b s t d"], *, train: bool = False) -> Float[Array, "b s t d"]:
        """Each token by itself."""
        drop = nn.Dropout(self.config.hidden_dropout_prob, deterministic=not train)
        hidden = self.dense(self.config.intermediate_size, "intermediate")(tokens)
        hidden = drop(ACTIVATIONS[self.config.hidden_act](hidden))
        return drop(self.dense(self.config.hidden_size, "output")(hidden))


class TimesformerLayer(_Module):
    """One block of the encoder: temporal attention (divided only), spatial or joint attention, MLP.

    Attributes:
        train: whether dropout and stochastic depth act.
        output_hidden_states: return the tokens after this layer.
        output_attentions: return the attention probabilities.
    """

    train: bool = False
    output_hidden_states: bool = False
    output_attentions: bool = False

    @nn.compact
    def __call__(self, tokens: Tokens, drop_path_rate: Float[Array, ""]) -> tuple[Tokens, tuple[Any, Any, Any]]:
        """The tokens after this layer, and what was asked for: them once more, attentions, temporal attentions."""
        cls, patches = tokens
        batch, num_patches, num_frames, _ = patches.shape
        cls_frames = cls.shape[2]
        divided = self.config.attention_type == "divided_space_time"
        temporal_probabilities = None

        if divided:
            patches = with_logical_constraint(patches, _TEMPORAL)
            attention = TimesformerAttention(self.config, **self.numerics(), name="temporal_attention")
            residual, temporal_probabilities = attention(
                self.layer_norm("temporal_layernorm")(patches), temporal=True, train=self.train
            )
            residual = residual * self.drop_path(drop_path_rate, (batch, num_patches, 1, 1))
            # After stochastic depth, so that the bias stays; zero at first, so that training starts from the ViT.
            temporal_dense = self.dense(self.config.hidden_size, "temporal_dense", kernel_init=initializers.zeros)
            patches = patches + temporal_dense(residual)

        patches = with_logical_constraint(patches, _SPATIAL)
        frame_cls = jnp.broadcast_to(cls, (batch, 1, num_frames, cls.shape[-1]))
        attention = TimesformerAttention(self.config, **self.numerics(), name="attention")
        residual, probabilities = attention(
            self.layer_norm("layernorm_before")(jnp.concatenate([frame_cls, patches], axis=1)), train=self.train
        )
        residual = residual * self.drop_path(drop_path_rate, (batch, 1, num_frames, 1))
        cls_residual, patches_residual = residual[:, :1], residual[:, 1:]
        if divided:  # each frame had a copy of the clip's CLS
            cls_residual = cls_residual.mean(axis=2, keepdims=True)
        cls, patches = cls + cls_residual, patches + patches_residual

        norm = self.layer_norm("layernorm_after")
        mlp = TimesformerMlp(self.config, **self.numerics(), name="mlp")
        scale = self.drop_path(drop_path_rate, (batch, 1, cls_frames, 1))
        cls = cls + scale * mlp(norm(cls), train=self.train)
        patches = patches + scale * mlp(norm(patches), train=self.train)
        patches = with_logical_constraint(patches, _SPATIAL)

        tokens = (cls, patches)
        return tokens, (
            tokens if self.output_hidden_states else None,
            probabilities if self.output_attentions else None,
            temporal_probabilities if self.output_attentions else None,
        )

    def drop_path(self, rate: Array, shape: tuple[int, ...]) -> Array | int:
        """1, or in training one random scale for each branch of `shape` (see `stochastic_depth_scale`)."""
        if not self.train or self.config.drop_path_rate == 0:
            return 1
        return stochastic_depth_scale(self.make_rng("dropout"), rate, shape, self.dtype)


class TimesformerEncoder(_Module):
    """The layers, one compiled body scanned over parameters stacked along a leading axis."""

    @nn.compact
    def __call__(
        self, tokens: Tokens, *, train: bool, output_hidden_states: bool, output_attentions: bool
    ) -> tuple[Tokens, tuple[Any, Any, Any]]:
        """The tokens after the last layer, and what was asked for of every layer, stacked."""
        layers = nn.scan(
            TimesformerLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.config.num_hidden_layers,
        )(
            self.config,
            **self.numerics(),
            train=train,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            name="layers",
        )
        # Not in bfloat16, whose eight bits would move the rates (and the draws that are compared with them).
        rate_dtype = jnp.promote_types(self.dtype, jnp.float32)
        drop_path_rates = jnp.linspace(0, self.config.drop_path_rate, self.config.num_hidden_layers, dtype=rate_dtype)
        return layers(tokens, drop_path_rates)


class TimesformerModel(_Module, PretrainedModel):
    """The encoder without a head: `model.apply({"params": params}, pixel_values)`.

    Reference: TimesformerModel in modeling_timesformer.py of Transformers 4.56.2; frames and size come from the input
    here, as in the original repository.
    """

    has_head: ClassVar[bool] = False

    @nn.compact
    def __call__(
        self,
        pixel_values: Float[Array | np.ndarray, "b t height width c"],
        *,
        train: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TimesformerModelOutput:
        """Encodes clips.

        Args:
            pixel_values: normalised frames, as `VideoProcessor` makes them. Any number of frames; sides that patches
                divide. Embeddings are resized where these differ from the config's.
            train: whether dropout and stochastic depth act; they need `rngs={"dropout": key}`.
            output_hidden_states: also return the tokens before and after every layer.
            output_attentions: also return the attention probabilities of every layer.

        Raises:
            ValueError: the pixel values have another layout, type or size than the model can take.
        """
        check_pixel_values(pixel_values, self.config)
        embeddings = TimesformerEmbeddings(self.config, **self.numerics(), name="embeddings")
        encoder = TimesformerEncoder(self.config, **self.numerics(), name="encoder")
        embedded = embeddings(jnp.asarray(pixel_values, self.dtype), train=train)
        (cls, patches), (layer_tokens, attentions, temporal_attentions) = encoder(
            embedded, train=train, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        if self.config.attention_type == "space_only":
            cls, patches = (tokens.mean(axis=2, keepdims=True) for tokens in (cls, patches))
        hidden_states = None
        if output_hidden_states:
            hidden_states = tuple(self._sequence(*tokens) for tokens in (embedded, *_unstack(layer_tokens)))
        if attentions is not None and self.config.attention_type == "joint_space_time":
            attentions = attentions[:, :, 0]
        return TimesformerModelOutput(
            last_hidden_state=self.layer_norm("layernorm")(_flatten(cls, patches)),
            hidden_states=hidden_states,
            attentions=None if attentions is None else _unstack(attentions),
            temporal_attentions=None if temporal_attentions is None else _unstack(temporal_attentions),
        )

    def _sequence(self, cls: Array, patches: Array) -> Array:
        if self.config.attention_type == "space_only":
            return jnp.concatenate([cls, patches], axis=1).swapaxes(1, 2)
        return _flatten(cls, patches)


class TimesformerForVideoClassification(_Module, PretrainedModel):
    """The encoder and a linear classifier on its CLS token (equation 10).

    Reference: TimesformerForVideoClassification in modeling_timesformer.py of Transformers 4.56.2.
    """

    has_head: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self,
        pixel_values: Float[Array | np.ndarray, "b t height width c"],
        labels: Shaped[Array | np.ndarray, "..."] | None = None,
        *,
        train: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TimesformerClassifierOutput:
        """Classifies clips.

        Args:
            pixel_values: see `TimesformerModel`.
            labels: class indices or targets; asks for the loss (see losses.py).
            train: see `TimesformerModel`.
            output_hidden_states: see `TimesformerModel`.
            output_attentions: see `TimesformerModel`.

        Raises:
            ValueError: the pixel values or labels have a layout, type or size that the model can't take.
        """
        outputs = TimesformerModel(self.config, **self.numerics(), name="timesformer")(
            pixel_values,
            train=train,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        # In float32 at least: rounding the logits themselves to bfloat16 would cost more than the classifier.
        logits = outputs.last_hidden_state[:, 0].astype(jnp.promote_types(self.dtype, jnp.float32))
        if self.config.num_labels > 0:
            logits = self.dense(self.config.num_labels, "classifier", dtype=logits.dtype)(logits)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, jnp.asarray(labels), self.config.problem_type)
        return TimesformerClassifierOutput(
            logits=logits,
            loss=loss,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            temporal_attentions=outputs.temporal_attentions,
        )


def _flatten(cls: Float[Array, "b 1 1 d"], patches: Float[Array, "b n t d"]) -> Float[Array, "b s d"]:
    """The reference's token order: CLS, then patch by patch, frame by frame."""
    batch, num_patches, num_frames, width = patches.shape
    return jnp.concatenate([cls[:, 0], patches.reshape(batch, num_patches * num_frames, width)], axis=1)


def _unstack(stacked: Any) -> tuple[Any, ...]:
    """One tree for each layer from a tree of arrays with a leading layer axis."""
    length = jax.tree.leaves(stacked)[0].shape[0]
    return tuple(jax.tree.map(operator.itemgetter(i), stacked) for i in range(length))


def _symmetric_uniform(bound: float) -> initializers.Initializer:
    def init(key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> Array:
        del out_sharding  # parameters carry no metadata here
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
