"""The encoder one layer at a time: what every attention of it works with, without ever holding all attentions.

The attention matrices of a long clip don't fit in memory together: 96 frames of 224 pixels make 3 GB of them in a base
model, and joint attention 200 GB. Queries and keys are small. So a clip is run layer by layer here, queries, keys and
values are caught on their way, and whoever asks reduces them at once. Only the tokens that enter each layer are kept.
Letters in shapes are those of modeling.py.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .checkpoints.mapping import BACKBONE, Params
from .layers import TimesformerAttention, TimesformerEmbeddings, TimesformerLayer, Tokens
from .modeling import TimesformerForVideoClassification, TimesformerModel

Model = TimesformerModel | TimesformerForVideoClassification

HostTokens = tuple[Float[np.ndarray, "b 1 t_cls d"], Float[np.ndarray, "b n t d"]]
"""CLS and patches, in the host's memory."""

TEMPORAL, SPATIAL = "temporal_attention", "attention"
"""The attentions of a layer, by the names of their modules."""


@flax.struct.dataclass
class Attention:
    """What one attention of one layer works with; groups are the frames (spatial) or the patches (temporal).

    Attributes:
        query: one row a token.
        key: one row a token.
        value: one row a token.
        gradient: with respect to the attended values, where a class is explained (see relevance.py).
    """

    query: Float[Array, "b groups h s k"]
    key: Float[Array, "b groups h s k"]
    value: Float[Array, "b groups h s k"]
    gradient: Float[Array, "b groups h s k"] | None = None

    def probabilities(self, tokens: slice) -> Float[Array, "b groups h q s"]:
        """How much some tokens of each group attend to all tokens of the group."""
        query = self.query[..., tokens, :]
        softmax_dtype = jnp.promote_types(query.dtype, jnp.float32)
        logits = jnp.matmul(query, self.key.mT, preferred_element_type=softmax_dtype)
        return jax.nn.softmax(logits * query.shape[-1] ** -0.5)


@flax.struct.dataclass
class LayerAttentions:
    """Both attentions of a layer.

    Attributes:
        spatial: over the tokens of a frame, CLS first; joint attention is over the single frame that holds them all.
        temporal: over the frames, for each patch; of divided attention alone.
    """

    spatial: Attention
    temporal: Attention | None


def backbone(model: Model, params: Params) -> Params:
    """The encoder's own parameters."""
    return params[BACKBONE] if model.has_head else params


def embed(model: Model, params: Params, pixel_values: Float[Array | np.ndarray, "b t height width c"]) -> Tokens:
    """The tokens that enter the first layer."""
    return _embed(model, backbone(model, params)["embeddings"], jnp.asarray(pixel_values, model.dtype))


def run_layer(model: Model, params: Params, index: int, tokens: Tokens | HostTokens) -> tuple[Tokens, LayerAttentions]:
    """The tokens after the layer with this index, and its attentions."""
    return _run_layer(model, backbone(model, params)["encoder"]["layers"], index, tokens)


def run_layers(
    model: Model, params: Params, pixel_values: Float[Array | np.ndarray, "b t height width c"]
) -> Iterator[tuple[Tokens, LayerAttentions]]:
    """Runs a clip through all layers.

    Yields:
        For each layer the tokens after it and its attentions, to be reduced before the next layer is asked for.
    """
    tokens = embed(model, params, pixel_values)
    for index in range(model.config.num_hidden_layers):
        tokens, attentions = run_layer(model, params, index, tokens)
        yield tokens, attentions


def tokens_before_layers(
    model: Model, params: Params, pixel_values: Float[Array | np.ndarray, "b t height width c"]
) -> list[HostTokens]:
    """The tokens that enter each layer and, last, those that leave the encoder; in the host's memory."""
    entering = [jax.device_get(embed(model, params, pixel_values))]
    entering += [jax.device_get(tokens) for tokens, _ in run_layers(model, params, pixel_values)]
    return entering


def grid_of(model: Model, pixel_values: Float[Array | np.ndarray, "b t height width c"]) -> tuple[int, int, int]:
    """Frames, and rows and columns of patches, of a clip."""
    frames, height, width = pixel_values.shape[1:4]
    return frames, height // model.config.patch_shape[0], width // model.config.patch_shape[1]


def apply_layer(
    model: Model, layer_params: Params, tokens: Tokens | HostTokens, added: dict[str, Array] | None = None
) -> tuple[Tokens, dict[str, Array]]:
    """A layer, with its attentions watched.

    Args:
        model: the model.
        layer_params: of one layer.
        tokens: that enter it.
        added: what to add to the outputs of its attentions, by their names: zeros, whose gradient is asked for.

    Returns:
        The tokens after it, and what entered each attention.
    """
    entered: dict[str, Array] = {}

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if not isinstance(context.module, TimesformerAttention) or context.method_name != "__call__":
            return call(*args, **kwargs)
        name = str(context.module.name)
        entered[name] = args[0]
        output, probabilities = call(*args, **kwargs)
        return output if added is None else output + added[name], probabilities

    layer = TimesformerLayer(model.config, **model.numerics())
    with nn.intercept_methods(watch):
        after, _ = layer.apply({"params": layer_params}, tokens, jnp.zeros(()))
    return after, entered


def project(model: Model, attention_params: Params, tokens: Float[Array, "b s t d"], *, temporal: bool) -> Attention:
    """Queries, keys and values of the tokens that enter an attention, in groups of those that see each other."""
    qkv = jnp.einsum("bstd,dchk->bstchk", tokens, attention_params["qkv"]["kernel"], precision=model.precision)
    if "bias" in attention_params["qkv"]:
        qkv += attention_params["qkv"]["bias"]
    return Attention(*jnp.einsum("bstchk->cbshtk" if temporal else "bstchk->cbthsk", qkv))


def attentions_of(model: Model, layer_params: Params, entered: dict[str, Array]) -> LayerAttentions:
    """Both attentions of a layer from what entered them."""
    found = {
        name: project(model, layer_params[name], tokens, temporal=name == TEMPORAL) for name, tokens in entered.items()
    }
    return LayerAttentions(found[SPATIAL], found.get(TEMPORAL))


def layer_slice(layers: Params, index: Any) -> Params:
    """The parameters of one of the stacked layers."""
    return jax.tree.map(lambda stacked: stacked[index], layers)


@functools.partial(jax.jit, static_argnums=0)
def _embed(model: Model, params: Params, pixel_values: Array) -> Tokens:
    embeddings: Any = TimesformerEmbeddings(model.config, **model.numerics())
    return embeddings.apply({"params": params}, pixel_values)


@functools.partial(jax.jit, static_argnums=0)
def _run_layer(model: Model, layers: Params, index: Any, tokens: Tokens | HostTokens) -> tuple[Tokens, LayerAttentions]:
    layer_params = layer_slice(layers, index)
    after, entered = apply_layer(model, layer_params, tokens)
    return after, attentions_of(model, layer_params, entered)
