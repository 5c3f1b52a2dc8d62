"""The Flax modules that checkpoints are made of: encoder, TimesformerModel and TimesformerForVideoClassification.

Letters in shapes, here and in the functions that the modules stand on:

    b  batch (clips)       t  frames               n  patches of a frame        s  tokens of a sequence, CLS included
    d  hidden width        h  attention heads      k  width of a head           c  colour channels
"""

import dataclasses
import operator
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ..checkpoints.pretrained import PretrainedModel
from .embeddings import check_pixel_values, patch_grid
from .layers import TimesformerEmbeddings, TimesformerLayer, Tokens
from .losses import classification_loss
from .merged import MergedLayer
from .module import TimesformerModule
from .outputs import TimesformerClassifierOutput, TimesformerModelOutput
from .remat import scan_layers
from .token_groups import Grid


class TimesformerEncoder(TimesformerModule):
    """The layers, one compiled body scanned over parameters stacked along a leading axis."""

    @nn.compact
    def __call__(self, tokens: Tokens, grid: Grid, *, train: bool, **outputs: Any) -> tuple[Tokens, tuple[Any, Any]]:
        """The tokens after the last layer, and what was asked for of every layer, stacked."""
        # In training the same layer with an operation less.
        layer_class = MergedLayer if train else TimesformerLayer
        layer = layer_class(**self.settings(), grid=grid, train=train, **outputs, name="layers")
        # Not in bfloat16, whose eight bits would move the rates (and the draws that are compared with them).
        rate_dtype = jnp.promote_types(self.dtype, jnp.float32)
        drop_path_rates = jnp.linspace(0, self.config.drop_path_rate, self.config.num_hidden_layers, dtype=rate_dtype)
        return scan_layers(self.remat, self.config.num_hidden_layers)(layer, tokens, drop_path_rates)


class TimesformerModel(TimesformerModule, PretrainedModel):
    """The encoder without a head: `model.apply({"params": params}, pixel_values)`.

    Reference: TimesformerModel in modeling_timesformer.py of Transformers 4.56.2; frames and size come from the input
    here, as in the original repository.

    Attributes:
        cls_only: `last_hidden_state` is CLS alone, (b, 1, d): what a classifier needs. Where a clip's frames are spread
            over devices, the whole sequence would have to be put together from them.
    """

    has_head: ClassVar[bool] = False
    cls_only: bool = False

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
            VideoError: the pixel values have another layout, type or size than the model can take.
        """
        check_pixel_values(pixel_values, self.config)
        embeddings = TimesformerEmbeddings(self.config, **self.numerics(), name="embeddings")
        encoder = TimesformerEncoder(**self.settings(), name="encoder")
        flags = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        embedded = embeddings(jnp.asarray(pixel_values, self.dtype), train=train)
        grid = patch_grid(pixel_values, self.config)
        (cls, patches), (layer_tokens, attentions) = encoder(embedded, grid, train=train, **flags)
        if self.config.attention_type == "space_only":
            cls, patches = (tokens.mean(axis=2, keepdims=True) for tokens in (cls, patches))
        hidden_states = None
        if output_hidden_states:
            hidden_states = tuple(self._sequence(*tokens) for tokens in (embedded, *_unstack(layer_tokens)))
        asked_for = {name: _unstack(probabilities) for name, probabilities in attentions.items() if output_attentions}
        return TimesformerModelOutput(
            last_hidden_state=self.layer_norm("layernorm")(cls[:, 0] if self.cls_only else _flatten(cls, patches)),
            hidden_states=hidden_states,
            **asked_for,
        )

    def _sequence(self, cls: Array, patches: Array) -> Array:
        if self.config.attention_type == "space_only":
            return jnp.concatenate([cls, patches], axis=1).swapaxes(1, 2)
        return _flatten(cls, patches)


class TimesformerForVideoClassification(TimesformerModule, PretrainedModel):
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
        """Classifies clips. Pixel values and flags are those of `TimesformerModel`.

        `labels` are class indices or targets, and ask for the loss (see losses.py).

        Raises:
            VideoError: the pixel values have a layout, type or size that the model can't take.
            ValueError: the labels don't fit the loss.
        """
        model = TimesformerModel(**self.settings(), cls_only=True, name="timesformer")
        flags = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        outputs = model(pixel_values, train=train, **flags)
        # In float32 at least: rounding the logits themselves to bfloat16 would cost more than the classifier.
        logits = outputs.last_hidden_state[:, 0].astype(jnp.promote_types(self.dtype, jnp.float32))
        if self.config.num_labels > 0:
            logits = self.dense(self.config.num_labels, "classifier", dtype=logits.dtype)(logits)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, jnp.asarray(labels), self.config.problem_type)
        asked_for = {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)[1:]}
        return TimesformerClassifierOutput(logits=logits, loss=loss, **asked_for)


def _flatten(cls: Float[Array, "b 1 1 d"], patches: Float[Array, "b n t d"]) -> Float[Array, "b s d"]:
    """The reference's token order: CLS, then patch by patch, frame by frame."""
    batch, num_patches, num_frames, width = patches.shape
    return jnp.concatenate([cls[:, 0], patches.reshape(batch, num_patches * num_frames, width)], axis=1)


def _unstack(stacked: Any) -> tuple[Any, ...]:
    """One tree for each layer from a tree of arrays with a leading layer axis."""
    length = jax.tree.leaves(stacked)[0].shape[0]
    return tuple(jax.tree.map(operator.itemgetter(i), stacked) for i in range(length))
