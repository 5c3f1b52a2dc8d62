"""The Flax modules of one layer, and those before it: embeddings, MLP, encoder layer.

Between layers the tokens of a clip are two arrays: patches (b, n, t, d), and CLS apart from them, (b, 1, 1, d) for
the clip or (b, 1, t, d) where each frame has its own (space-only). Joint attention holds all its patches in a single
frame, (b, n*t, 1, d), which makes it the space-only layer with one frame; but for clips whose frames are spread evenly
over devices (see ring.py). Letters are those of modeling.py.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.spmd import with_logical_constraint
from jax.nn import initializers
from jaxtyping import Array, Float

from ..activations import ACTIVATIONS
from ..position_embeddings import resize_space_embedding, resize_time_embedding
from ..schemes import Reach, Step, attention_steps, has_position_embeddings, has_time_embeddings, steps_for_cls
from ..sharding import axes_in_use, devices_along
from .attention import stochastic_depth_scale
from .attention_layers import NeighbourhoodAttention, TimesformerAttention
from .cpu import computed_before, matrix_product
from .embeddings import extract_patches
from .module import TimesformerModule
from .token_groups import Grid

Tokens = tuple[Float[Array, "b 1 t_cls d"], Float[Array, "b n t d"]]
"""CLS and patches."""
Residuals = tuple[Array | None, Array, Array | None]
"""What a step adds to CLS (None: nothing) and to the patches, and the probabilities where they are asked for."""

# Logical axes of (batch, n, t, hidden): along "attended" tokens see each other, along "parallel" they don't.
_TEMPORAL = ("batch", "parallel", "attended", "hidden")
_SPATIAL = ("batch", "attended", "parallel", "hidden")
_CLS = _WHOLE = ("batch", None, None, "hidden")
_AXES: dict[Reach, tuple[str | None, ...]] = {
    "time": _TEMPORAL,
    "frame": _SPATIAL,
    "row": _SPATIAL,
    "column": _SPATIAL,
    "lattice": _WHOLE,
    "window": _WHOLE,
}


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
        cls_token = cls_token.astype(self.dtype)
        drop = nn.Dropout(config.hidden_dropout_prob, deterministic=not train)

        patches = project(extract_patches(pixel_values, config.patch_shape))
        if has_position_embeddings(config):
            space = self.param(
                "position_embeddings", self.weight_init(), (1 + rows * columns, config.hidden_size), self.param_dtype
            )
            space = space.astype(self.dtype)
            grid = (height // patch_height, width // patch_width)
            patches = patches + resize_space_embedding(space[1:], (rows, columns), grid)[:, None]
            cls_token = cls_token + space[0]
        patches = drop(patches)
        cls_frames = num_frames if config.attention_type == "space_only" else 1
        cls = drop(jnp.broadcast_to(cls_token, (batch, 1, cls_frames, config.hidden_size)))
        if has_time_embeddings(config):
            time = self.param(
                "time_embeddings", initializers.zeros, (config.num_frames, config.hidden_size), self.param_dtype
            )
            patches = drop(patches + resize_time_embedding(time.astype(self.dtype), num_frames))
        # Frames that are spread over devices stay where they are.
        if config.attention_type == "joint_space_time" and not _spread_evenly(num_frames):
            patches = _in_one_frame(patches)
        return cls, patches


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
        cls_only: give back CLS alone (and no patches): what the last layer needs for logits. Folded parameters alone.
    """

    grid: Grid = (1, 1)
    train: bool = False
    output_hidden_states: bool = False
    output_attentions: bool = False
    cls_only: bool = False

    @nn.compact
    def __call__(
        self, tokens: Tokens, drop_path_rate: Float[Array, ""]
    ) -> tuple[tuple[Float[Array, "b 1 t_cls d"], Float[Array, "b n_left t d"]], tuple[Any, dict[str, Any]]]:
        """The tokens after this layer, and what was asked for: them once more, and attentions by their modules."""
        cls, patches = tokens
        # Else the width would follow the spread kernels that it meets.
        cls = with_logical_constraint(cls, _CLS)
        on_ring = self.config.attention_type == "joint_space_time" and patches.shape[2] > 1
        if on_ring and self.needs_whole_clips():
            on_ring, patches = False, _in_one_frame(patches)
        entering, attentions = (cls, patches), {}
        parallel = self.config.attention_order == "parallel"
        steps = steps_for_cls(self.config) if self.cls_only else attention_steps(self.config)
        for step in steps:
            axes = _AXES[step.reach]
            patches = with_logical_constraint(patches, axes)
            seen = (entering[0], with_logical_constraint(entering[1], axes)) if parallel else (cls, patches)
            cls_only = self.cls_only and step is steps[-1]
            over_frame = self.over_ring if on_ring else self.over_frame
            attend = {"time": self.over_time, "frame": over_frame}.get(step.reach, self.over_neighbourhood)
            cls_residual, residual, attentions[step.attention] = attend(step, *seen, drop_path_rate, cls_only)
            if cls_residual is not None:
                cls = cls + cls_residual
            if cls_only:
                patches = patches[:, :0]
            patches = patches + residual
            if step.reach == "time":
                # Constrained on both sides of the turn, so that no product has to make it (in the backward pass, too).
                patches = with_logical_constraint(patches, axes)

        norm = self.norm("layernorm_after")
        mlp = TimesformerMlp(**self.settings(), name="mlp")
        scale = self.drop_path(drop_path_rate, (cls.shape[0], 1, cls.shape[2], 1))
        cls = cls + scale * mlp(norm(cls), train=self.train)
        patches = patches + scale * mlp(norm(patches), train=self.train)
        if patches.size:  # in one frame or in several, as they came
            patches = patches.reshape(tokens[1].shape)
        patches = with_logical_constraint(patches, _SPATIAL)

        tokens = (cls, patches)
        return tokens, (tokens if self.output_hidden_states else None, attentions)

    def over_time(self, step: Step, cls: Array, patches: Array, drop_path_rate: Array, cls_only: bool) -> Residuals:
        """Each place by itself, without CLS."""
        merged = self.merges_projections(patches)
        attention = TimesformerAttention(
            **self.settings(), output_attentions=self.output_attentions, projects=not merged, name=step.attention
        )
        residual, probabilities = attention(self.norm(step.norm)(patches), temporal=True, train=self.train)
        scale = self.drop_path(drop_path_rate, (*patches.shape[:2], 1, 1))
        if merged:
            return None, self.merged_projections(step, residual, scale), probabilities
        return None, self.dense_after(step)(residual * scale), probabilities

    def over_frame(self, step: Step, cls: Array, patches: Array, drop_path_rate: Array, cls_only: bool) -> Residuals:
        """Each frame by itself, CLS (or a copy of it) first."""
        batch, _, num_frames, width = patches.shape
        frame_cls = jnp.broadcast_to(cls, (batch, 1, num_frames, width))
        attention = TimesformerAttention(
            **self.settings(), cls_only=cls_only, output_attentions=self.output_attentions, name=step.attention
        )
        residual, probabilities = attention(
            self.norm(step.norm)(jnp.concatenate([frame_cls, patches], axis=1)), train=self.train
        )
        residual = residual * self.drop_path(drop_path_rate, (batch, 1, num_frames, 1))
        cls_residual, residual = residual[:, :1], residual[:, 1:]
        if cls.shape[2] < num_frames:  # each frame had a copy of the clip's CLS
            cls_residual = cls_residual.mean(axis=2, keepdims=True)
        return cls_residual, residual, probabilities

    def over_ring(self, step: Step, cls: Array, patches: Array, drop_path_rate: Array, cls_only: bool) -> Residuals:
        """All tokens of the clip, whose frames stay on their devices."""
        attention = TimesformerAttention(**self.settings(), cls_only=cls_only, name=step.attention)
        norm = self.norm(step.norm)
        (cls_residual, residual), _ = attention((norm(cls), norm(patches)), train=self.train)
        scale = self.drop_path(drop_path_rate, (cls.shape[0], 1, 1, 1))
        return cls_residual * scale, residual * scale, None

    def over_neighbourhood(
        self, step: Step, cls: Array, patches: Array, drop_path_rate: Array, cls_only: bool
    ) -> Residuals:
        """Rows, columns, the lattice or windows."""
        attention = NeighbourhoodAttention(
            **self.settings(),
            step=step,
            grid=self.grid,
            cls_only=cls_only,
            output_attentions=self.output_attentions,
            name=step.attention,
        )
        norm, dense = self.norm(step.norm), self.dense_after(step)
        cls_residual, residual, probabilities = attention(norm(cls), norm(patches), train=self.train)
        scale = self.drop_path(drop_path_rate, (cls.shape[0], 1, 1, 1))
        if cls_residual is not None:
            cls_residual = dense(cls_residual * scale)
        return cls_residual, dense(residual * scale), probabilities

    def dense_after(self, step: Step) -> Callable[[Array], Array]:
        """The dense layer that a step ends in; it is folded into the output projection before it.

        After stochastic depth, so that the bias stays; zero at first, so that training starts from the ViT.
        """
        if step.dense is None or self.folded:
            return lambda residual: residual
        return self.dense(self.config.hidden_size, step.dense, kernel_init=initializers.zeros)

    def norm(self, name: str) -> Callable[[Array], Array]:
        """The LayerNorm before a projection, kept apart from it but in training, where that has a gradient."""
        layer_norm = self.layer_norm(name)
        return layer_norm if self.train else lambda tokens: computed_before(layer_norm(tokens))

    def merges_projections(self, patches: Float[Array, "b n t d"]) -> bool:
        """Whether `merged_projections` saves work: in training, with more tokens on each device than they are wide."""
        drops = self.config.hidden_dropout_prob > 0
        if not self.train or self.folded or drops or self.is_initializing():
            return False
        devices = devices_along((*axes_in_use("batch"), *axes_in_use("parallel")))
        return math.prod(patches.shape[:3]) > devices * self.config.hidden_size

    def merged_projections(
        self, step: Step, values: Float[Array, "b n t h k"], scale: Array | int
    ) -> Float[Array, "b n t d"]:
        """The output projection, stochastic depth and the dense layer after it, with one product of the tokens.

        Nothing but a factor for each row lies between the two, so their kernels are multiplied first: a product less of
        the tokens here, two less in the backward pass, and an array less to keep for it.
        """
        params: Any = self.variables["params"]
        exact = jnp.promote_types(self.dtype, jnp.float32)
        output, dense = jax.tree.map(
            lambda leaf: leaf.astype(exact), (params[step.attention]["output"], params[step.dense])
        )
        kernel, bias = (
            jnp.tensordot(leaf, dense["kernel"], 1, precision=self.precision).astype(self.dtype)
            for leaf in (output["kernel"], output["bias"])
        )
        contracted = (((3, 4), (0, 1)), ((), ()))
        residual = matrix_product(values, kernel, contracted, precision=self.precision) + bias
        return residual * scale + dense["bias"].astype(self.dtype)

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
