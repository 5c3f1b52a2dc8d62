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
from jaxtyping import Array, Bool, Float

from ..checkpoints.mapping import BACKBONE, Params
from ..model.attention_layers import NeighbourhoodAttention, TimesformerAttention
from ..model.embeddings import patch_grid
from ..model.layers import TimesformerEmbeddings, TimesformerLayer, Tokens
from ..model.modeling import TimesformerForVideoClassification, TimesformerModel
from ..model.token_groups import Grid, padding_mask, window_masks, window_pieces, with_copies
from ..schemes import AttentionStep, attention_steps

Model = TimesformerModel | TimesformerForVideoClassification

HostTokens = tuple[Float[np.ndarray, "b 1 t_cls d"], Float[np.ndarray, "b n t d"]]
"""CLS and patches, in the host's memory."""


@flax.struct.dataclass
class Attention:
    """What one attention of one layer works with; groups are the frames (spatial), the patches (temporal), and so on.

    Attributes:
        query: one row a token.
        key: one row a token.
        value: one row a token.
        gradient: with respect to the attended values, where a class is explained (see relevance.py).
        mask: False where a token is not seen; None where all of a group are.
    """

    query: Float[Array, "b groups h q k"]
    key: Float[Array, "b groups h s k"]
    value: Float[Array, "b groups h s k"]
    gradient: Float[Array, "b groups h q k"] | None = None
    mask: Bool[Array, "groups q s"] | None = None

    def probabilities(self, tokens: slice) -> Float[Array, "b groups h q s"]:
        """How much some tokens of each group attend to all tokens of the group."""
        query = self.query[..., tokens, :]
        softmax_dtype = jnp.promote_types(query.dtype, jnp.float32)
        logits = jnp.matmul(query, self.key.mT, preferred_element_type=softmax_dtype)
        logits = logits * query.shape[-1] ** -0.5
        if self.mask is not None:
            logits = jnp.where(self.mask[:, None, tokens], logits, -jnp.inf)
        return jax.nn.softmax(logits)


LayerAttentions = dict[str, tuple[Attention, ...]]
"""The attentions of a layer by the names of their modules (see schemes.py). Groups in which CLS takes part have it
first; joint attention's is the single frame that holds all its tokens. Those over windows are several, block by block.
"""


def backbone(model: Model, params: Params) -> Params:
    """The encoder's own parameters."""
    return params[BACKBONE] if model.has_head else params


def embed(model: Model, params: Params, pixel_values: Float[Array | np.ndarray, "b t height width c"]) -> Tokens:
    """The tokens that enter the first layer."""
    return _embed(model, backbone(model, params)["embeddings"], jnp.asarray(pixel_values, model.dtype))


def run_layer(
    model: Model, params: Params, index: int, tokens: Tokens | HostTokens, grid: Grid
) -> tuple[Tokens, LayerAttentions]:
    """The tokens after the layer with this index, and its attentions."""
    return _run_layer(model, backbone(model, params)["encoder"]["layers"], index, tokens, grid)


def run_layers(
    model: Model, params: Params, pixel_values: Float[Array | np.ndarray, "b t height width c"]
) -> Iterator[tuple[Tokens, LayerAttentions]]:
    """Runs a clip through all layers.

    Yields:
        For each layer the tokens after it and its attentions, to be reduced before the next layer is asked for.
    """
    tokens = embed(model, params, pixel_values)
    for index in range(model.config.num_hidden_layers):
        tokens, attentions = run_layer(model, params, index, tokens, patch_grid(pixel_values, model.config))
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
    return pixel_values.shape[1], *patch_grid(pixel_values, model.config)


def apply_layer(
    model: Model,
    layer_params: Params,
    tokens: Tokens | HostTokens,
    grid: Grid,
    added: dict[str, tuple[Array, ...]] | None = None,
) -> tuple[Tokens, dict[str, tuple[Array, ...]]]:
    """A layer, with its attentions watched.

    Args:
        model: the model.
        layer_params: of one layer.
        tokens: that enter it.
        grid: rows and columns of patches.
        added: what to add to the outputs of its attentions, by their names: zeros, whose gradient is asked for.

    Returns:
        The tokens after it, and what entered each attention: all tokens; in neighbourhoods, CLS and patches.
    """
    entered: dict[str, tuple[Array, ...]] = {}

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        watched = isinstance(context.module, TimesformerAttention | NeighbourhoodAttention)
        if not watched or context.method_name != "__call__":
            return call(*args, **kwargs)
        name = str(context.module.name)
        entered[name] = args
        *outputs, probabilities = call(*args, **kwargs)
        if added is not None:
            outputs = [o if o is None else o + more for o, more in zip(outputs, added[name], strict=True)]
        return *outputs, probabilities

    layer = TimesformerLayer(model.config, **model.numerics(), grid=grid)
    with nn.intercept_methods(watch):
        after, _ = layer.apply({"params": layer_params}, tokens, jnp.zeros(()))
    return after, entered


def arrange(step: Step, grid: Grid, tokens: tuple[Any, ...]) -> Float[Array, "b groups h s c k"]:
    """What belongs to the tokens of a step (their queries and so on), in groups of those that see each other.

    Args:
        step: of a layer.
        grid: rows and columns of patches.
        tokens: (b, s, t, c, h, k) for what entered the attention: all tokens; in neighbourhoods, CLS and patches.
    """
    if step.reach in ("time", "frame"):
        return jnp.einsum("bstchk->bshtck" if step.reach == "time" else "bstchk->bthsck", tokens[0])
    cls, patches = tokens
    return jnp.einsum("cbghsk->bghsck", with_copies(cls, patches, step.reach, grid))


def attention_of(
    model: Model,
    layer_params: Params,
    step: Step,
    entered: tuple[Array, ...],
    grid: Grid,
    gradients: tuple[Array, ...] | None = None,
) -> tuple[Attention, ...]:
    """What the attention of a step works with.

    Args:
        model: the model.
        layer_params: of one layer.
        step: of the layer.
        entered: what entered the attention, see `apply_layer`.
        grid: rows and columns of patches.
        gradients: at what left it, before what is averaged over copies of CLS.
    """
    qkv_params = layer_params[step.attention]["qkv"]

    def projected(tokens: Array) -> Array:
        qkv = jnp.einsum("bstd,dchk->bstchk", tokens, qkv_params["kernel"], precision=model.precision)
        return qkv + qkv_params["bias"] if "bias" in qkv_params else qkv

    def at_attended(gradient: Array) -> Array:
        kernel = layer_params[step.attention]["output"]["kernel"]
        return jnp.einsum("bstd,hkd->bsthk", gradient, kernel, precision=model.precision)[:, :, :, None]

    frames = entered[-1].shape[2]
    qkv = tuple(map(projected, entered))
    slopes = None if gradients is None else tuple(map(at_attended, gradients))
    if step.reach == "window":
        return _windows(qkv[1], None if slopes is None else slopes[1], grid)
    mask = padding_mask(step.reach, grid, frames)
    together = arrange(step, grid, qkv)
    gradient = None
    if slopes is not None:
        gradient = arrange(step, grid, slopes)[:, :, :, :, 0]
        if step.reach not in ("time", "frame"):  # each copy of CLS has its share in the mean
            gradient = gradient.at[:, :, :, 0].divide(gradient.shape[1])
    if mask is not None:
        mask = jnp.asarray(np.broadcast_to(mask[:, None], (len(mask), mask.shape[1], mask.shape[1])))
    query, key, value = (together[:, :, :, :, i] for i in range(3))
    return (Attention(query, key, value, gradient, mask),)


def _windows(
    qkv: Float[Array, "b n t 3 h k"], gradient: Float[Array, "b n t 1 h k"] | None, grid: Grid
) -> tuple[Attention, ...]:
    def blocks(array: Array, keys: bool) -> list[Array]:
        return [jnp.einsum("bmhk->bhmk", piece)[:, None] for piece in window_pieces(array, grid, keys=keys)]

    masks = [None if mask is None else jnp.asarray(mask[None]) for mask in window_masks(grid, qkv.shape[2])]
    queries, keys, values = (blocks(qkv[:, :, :, i], keys=i > 0) for i in range(3))
    slopes = [None] * len(masks) if gradient is None else blocks(gradient[:, :, :, 0], keys=False)
    parts = zip(queries, keys, values, slopes, masks, strict=True)
    return tuple(Attention(query, key, value, slope, mask) for query, key, value, slope, mask in parts)


def layer_slice(layers: Params, index: Any) -> Params:
    """The parameters of one of the stacked layers."""
    return jax.tree.map(lambda stacked: stacked[index], layers)


@functools.partial(jax.jit, static_argnums=0)
def _embed(model: Model, params: Params, pixel_values: Array) -> Tokens:
    embeddings: Any = TimesformerEmbeddings(model.config, **model.numerics())
    return embeddings.apply({"params": params}, pixel_values)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _run_layer(
    model: Model, layers: Params, index: Any, tokens: Tokens | HostTokens, grid: Grid
) -> tuple[Tokens, LayerAttentions]:
    layer_params = layer_slice(layers, index)
    after, entered = apply_layer(model, layer_params, tokens, grid)
    return after, {
        step.attention: attention_of(model, layer_params, step, entered[step.attention], grid)
        for step in attention_steps(model.config)
    }
