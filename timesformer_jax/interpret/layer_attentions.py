"""What every attention of the encoder works with, one layer at a time, without ever holding all attentions.

The attention matrices of a long clip don't fit in memory together: 96 frames of 224 pixels make 3 GB of them in a base
model, and joint attention 200 GB. Queries and keys are small. So a clip is run layer by layer here. The model's own
attention modules hand out their queries, keys and values (Flax's `sow`), and take in zeros whose gradients can be asked
for (`perturb`); whoever asks reduces them at once. Only the tokens that enter each layer are kept. Letters in shapes
are those of model/modeling.py.
"""

import functools
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..checkpoints.mapping import Params
from ..model.attention import softmax_attention
from ..model.embeddings import patch_grid
from ..model.layers import TimesformerEmbeddings, TimesformerLayer, Tokens
from ..model.modeling import TimesformerForVideoClassification, TimesformerModel
from ..model.token_groups import Grid, TokenGroups
from ..parameters import BACKBONE
from ..schemes import AttentionStep, attention_steps

Model = TimesformerModel | TimesformerForVideoClassification

HostTokens = tuple[Float[np.ndarray, "b 1 t_cls d"], Float[np.ndarray, "b n t d"]]
"""CLS and patches, in the host's memory."""


@flax.struct.dataclass
class AttentionInputs:
    """What the attention within some groups of tokens works with (see model/token_groups.py).

    Attributes:
        query: one row a token that attends.
        key: one row a token attended to.
        value: one row a token attended to.
        gradient: of a class's logit with respect to the attended values (see relevance.py); None where none is asked.
        mask: False where a token is not seen; None where all are.
    """

    query: Float[Array, "b groups h q k"]
    key: Float[Array, "b groups h s k"]
    value: Float[Array, "b groups h s k"]
    gradient: Float[Array, "b groups h q k"] | None = None
    mask: Bool[Array, "groups 1 q s"] | None = None

    def probabilities(self, rows: slice = slice(None)) -> Float[Array, "b groups h q s"]:
        """How much some tokens of each group attend to all tokens of the group; float32 or better."""
        mask = None if self.mask is None else self.mask[:, :, rows]
        exact = jnp.promote_types(self.value.dtype, jnp.float32)
        return softmax_attention(self.query[..., rows, :], self.key, self.value.astype(exact), mask=mask)[1]


LayerAttentions = dict[str, tuple[AttentionInputs, ...]]
"""The attentions of a layer by the names of their modules (see schemes.py); those over windows are several."""


def backbone(model: Model, params: Params) -> Params:
    """The encoder's own parameters."""
    return params[BACKBONE] if model.has_head else params


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


def embed(model: Model, params: Params, pixel_values: Float[Array | np.ndarray, "b t height width c"]) -> Tokens:
    """The tokens that enter the first layer."""
    return _embed(model, backbone(model, params)["embeddings"], jnp.asarray(pixel_values, model.dtype))


@functools.partial(jax.jit, static_argnums=0)
def _embed(model: Model, params: Params, pixel_values: Array) -> Tokens:
    embeddings: Any = TimesformerEmbeddings(model.config, **model.numerics())
    return embeddings.apply({"params": params}, pixel_values)


def run_layer(
    model: Model, params: Params, index: int, tokens: Tokens | HostTokens, grid: Grid
) -> tuple[Tokens, LayerAttentions]:
    """The tokens after the layer with this index, and its attentions."""
    return _run_layer(model, backbone(model, params)["encoder"]["layers"], index, tokens, grid)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _run_layer(
    model: Model, layers: Params, index: Any, tokens: Tokens | HostTokens, grid: Grid
) -> tuple[Tokens, LayerAttentions]:
    variables = {"params": _one(layers, index)}
    (after, _), sown = _layer(model, grid).apply(variables, tokens, jnp.zeros(()), mutable=["intermediates"])
    return after, _attentions(model, grid, tokens, sown["intermediates"])


def gradient_before_layer(
    model: Model, params: Params, index: int, tokens: Tokens | HostTokens, grid: Grid, gradient: Tokens
) -> tuple[Tokens, LayerAttentions]:
    """The gradient at the tokens that enter a layer, and its attentions with their gradients.

    Args:
        model: the model.
        params: its parameters.
        index: of the layer.
        tokens: that enter it.
        grid: rows and columns of patches.
        gradient: at the tokens that leave it.
    """
    return _gradient_before_layer(model, backbone(model, params)["encoder"]["layers"], index, tokens, grid, gradient)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _gradient_before_layer(
    model: Model, layers: Params, index: Any, tokens: Tokens | HostTokens, grid: Grid, gradient: Tokens
) -> tuple[Tokens, LayerAttentions]:
    layer, variables = _layer(model, grid), {"params": _one(layers, index)}

    def run(tokens: Any, perturbations: Any) -> tuple[Tokens, Any]:
        perturbed = {**variables, "perturbations": perturbations}
        (after, _), sown = layer.apply(perturbed, tokens, jnp.zeros(()), mutable=["intermediates"])
        return after, sown["intermediates"]

    _, made = jax.eval_shape(lambda: layer.apply(variables, tokens, jnp.zeros(()), mutable=["perturbations"]))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), made["perturbations"])
    _, pull_back, sown = jax.vjp(run, tokens, zeros, has_aux=True)
    before, at_attended = pull_back(gradient)
    return before, _attentions(model, grid, tokens, sown, at_attended)


def _layer(model: Model, grid: Grid) -> Any:
    return TimesformerLayer(model.config, **model.numerics(), grid=grid)


def _one(layers: Params, index: Any) -> Params:
    """The parameters of one of the stacked layers."""
    return jax.tree.map(lambda stacked: stacked[index], layers)


def _attentions(
    model: Model, grid: Grid, tokens: Tokens | HostTokens, sown: Any, gradients: Any = None
) -> LayerAttentions:
    """What the attention modules of a layer have sown, with the gradients at what they attended."""

    def inputs(step: AttentionStep) -> Iterator[AttentionInputs]:
        masks = TokenGroups(step.groups, grid, tokens[1].shape[2]).masks()
        for index, (qkv, mask) in enumerate(zip(sown[step.attention]["groups"], masks, strict=True)):
            query, key, value = qkv
            if mask is not None:
                shape = (query.shape[1], 1, query.shape[3], key.shape[3])
                mask = jnp.broadcast_to(mask, shape)
            gradient = None if gradients is None else gradients[step.attention][f"attended_{index}"]
            yield AttentionInputs(query, key, value, gradient, mask)

    return {step.attention: tuple(inputs(step)) for step in attention_steps(model.config)}
