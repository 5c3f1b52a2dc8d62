"""The model for inference: parameters folded into each other where that leaves the logits as they are.

    model, params = fold_for_inference(*TimesformerForVideoClassification.from_pretrained(source), processor)
    logits = jax.jit(model.apply)({"params": params}, frames)      # uint8, as processor.resize_and_crop gives them

What is saved, all of it exact but for rounding:

- The temporal projection (`temporal_dense`) follows the temporal attention's output projection directly: one matrix.
  So it is with the other schemes' steps that end in a dense layer (see schemes.py).
- Scale and bias of each LayerNorm go into the projection after it, the softmax's 1 / sqrt(k) into the queries'.
- Rescaling and normalization of pixels go into the patch embedding, so that frames travel and wait as bytes. They are
  centred on the whole number nearest the mean, which bfloat16 holds exactly like all differences from it; the fraction
  left of the mean goes into the bias. Without that, a large mean would cancel against a large bias.
- The last layer computes CLS alone once it has keys and values: only CLS reaches the classifier. Steps that CLS does
  not depend on (temporal attention after the spatial one, or beside it) are left out there.

Kernels are kept in the type of the computation, each layer's apart, since the last is unlike the others.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ..checkpoints.mapping import Params, set_leaf
from ..model.embeddings import check_pixel_values, patch_grid
from ..model.layers import TimesformerEmbeddings, TimesformerLayer, Tokens
from ..model.modeling import TimesformerForVideoClassification
from ..model.module import TimesformerModule
from ..parameters import BACKBONE, axis_sizes, parameters
from ..schemes import AttentionStep, attention_steps, steps_for_cls
from ..video.processing import VideoProcessor
from .folded_layers import FoldedLayer, LastFoldedLayer

Array64 = Float[np.ndarray, "..."]


class InferenceModel(TimesformerModule):
    """Clips to logits, with the parameters that `fold_for_inference` makes; they come with it.

    Attributes:
        pixel_centre: what is subtracted from uint8 frames, for each channel; None where the model takes pixel values.
    """

    pixel_centre: tuple[int, ...] | None = None

    @nn.compact
    def __call__(
        self, frames: UInt8[Array | np.ndarray, "b t height width c"] | Float[Array | np.ndarray, "b t height width c"]
    ) -> Float[Array, "b labels"]:
        """Logits, float32 or better.

        Args:
            frames: uint8 frames of `VideoProcessor.resize_and_crop` if the model was folded with a processor, else
                pixel values as for `TimesformerForVideoClassification`.

        Raises:
            VideoError: the frames have another layout, type or size than the model can take.
        """
        check_pixel_values(frames, self.config, uint8=self.pixel_centre is not None)
        pixels = jnp.asarray(frames).astype(self.dtype)
        if self.pixel_centre is not None:
            pixels -= jnp.asarray(self.pixel_centre, self.dtype)
        tokens = TimesformerEmbeddings(**self.settings(), name="embeddings")(pixels)
        for index, layer in enumerate(self.layers(patch_grid(frames, self.config))):
            name = f"layer_{index}"
            variables = {kind: tree[name] for kind, tree in self.variables.items() if name in tree}
            tokens = _run_layer(layer, variables, tokens)
        cls = tokens[0].mean(axis=2)[:, 0]  # over the frames of space-only attention; elsewhere there is one
        # A single row: as exact as can be costs nothing.
        exact = jnp.promote_types(self.dtype, jnp.float32)
        if self.config.num_labels == 0:
            return self.layer_norm("layernorm", dtype=exact)(cls)
        cls = self.layer_norm("layernorm", dtype=exact, use_scale=False, use_bias=False)(cls)
        return self.dense(self.config.num_labels, "classifier", dtype=exact)(cls)

    def layers(self, grid: tuple[int, int]) -> list[TimesformerLayer]:
        """The layers, of which the last computes CLS alone. Their parameters are handed to them one by one."""
        classes = [FoldedLayer] * (self.config.num_hidden_layers - 1) + [LastFoldedLayer]
        return [layer(**self.settings(), grid=grid, parent=None) for layer in classes]


@functools.partial(jax.jit, static_argnums=0)
def _run_layer(layer: TimesformerLayer, variables: Mapping[str, Any], tokens: Tokens) -> Tokens:
    """One layer, compiled as part of the model; traced once for all layers that are alike."""
    tokens, _ = layer.apply(variables, tokens, jnp.zeros((), layer.dtype))  # pyright: ignore[reportAssignmentType]
    return tokens


def fold_for_inference(
    model: TimesformerForVideoClassification,
    params: Mapping[str, Any],
    processor: VideoProcessor | None = None,
    *,
    in_place: bool = False,
) -> tuple[InferenceModel, Params]:
    """A model that gives the same logits sooner, and its parameters.

    Args:
        model: the classifier.
        params: its parameters; left as they are.
        processor: whose rescaling and normalization to fold into the model, which then takes uint8 frames.
        in_place: the parameters are numpy arrays that nobody else needs: they are given away, and most of the result
            takes their memory.

    Returns:
        A hashable module (a static argument of `jax.jit`) and a new tree of arrays on the device, for
        `module.apply({"params": params}, frames)`.

    Raises:
        ValueError: a processor is given, and the model does not take three channels.
    """
    dtype = model.dtype
    exact = jnp.promote_types(dtype, jnp.float32)
    module = inference_module(model, processor)
    last, head_dim = model.config.num_hidden_layers - 1, model.config.head_dim
    fold = _Folding(np.dtype(jnp.promote_types(exact, jax.tree.leaves(params)[0].dtype)), in_place)
    backbone = params[BACKBONE]
    embeddings = dict(backbone["embeddings"])
    if processor is not None:
        embeddings["patch_embeddings"] = fold.pixels(embeddings["patch_embeddings"], processor)
    folded: Params = {"embeddings": fold.put(embeddings, dtype)}
    layers = jax.tree.map(np.asarray, backbone["encoder"]["layers"])
    for index in range(last + 1):
        layer = jax.tree.map(operator.itemgetter(index), layers)
        steps = steps_for_cls(model.config) if index == last else attention_steps(model.config)
        folded[f"layer_{index}"] = fold.put(fold.layer(layer, head_dim, steps, cls_only=index == last), dtype)
    if model.config.num_labels == 0:
        folded["layernorm"] = fold.put(backbone["layernorm"], exact)
    else:
        folded["classifier"] = fold.put(fold.after_norm(params["classifier"], backbone["layernorm"]), exact)
    return module, folded


def inference_module(
    model: TimesformerForVideoClassification, processor: VideoProcessor | None = None
) -> InferenceModel:
    """The module of `fold_for_inference`, which does not depend on the parameters; its arguments."""
    if processor is not None and model.config.num_channels != 3:
        raise ValueError(f"frames have three channels, but the model takes num_channels = {model.config.num_channels}.")
    return InferenceModel(
        model.config,
        dtype=model.dtype,
        param_dtype=model.dtype,
        precision=model.precision,
        attention_implementation=model.attention_implementation,
        pixel_centre=None if processor is None else _pixel_centre(processor),
    )


def folded_shapes(module: InferenceModel) -> Params:
    """Shapes and types of the parameters that `fold_for_inference` makes, for compiling before they are there."""
    config, sizes = module.config, axis_sizes(module.config)
    dtype, exact = jnp.dtype(module.dtype), jnp.promote_types(module.dtype, jnp.float32)
    shapes: Params = {}

    def put(path: tuple[str, ...], axes: tuple[str, ...], dtype: Any, **changed: int) -> None:
        shape = tuple((sizes | changed)[axis] for axis in axes)
        set_leaf(shapes, path, jax.ShapeDtypeStruct(shape, dtype))

    for parameter in parameters(config.replace(qkv_bias=True)):  # the norms' biases go there
        (part, *_), axes = parameter.path, (*parameter.inputs, *parameter.outputs)
        if not parameter.in_layer:
            if part != "layernorm" or config.num_labels == 0:
                put(parameter.path, axes, dtype if part == "embeddings" else exact)
            continue
        for index in range(config.num_hidden_layers):
            is_last = index == config.num_hidden_layers - 1
            steps = steps_for_cls(config) if is_last else attention_steps(config)
            if part not in ("mlp", *(step.attention for step in steps)):
                continue
            path = (f"layer_{index}", *parameter.path)
            if is_last and "qkv" in path and part == steps[-1].attention:
                put((*path[:2], "query", path[-1]), axes, dtype, qkv=1)
                put((*path[:2], "key_value", path[-1]), axes, dtype, qkv=2)
            else:
                put(path, axes, dtype)
    return shapes


@dataclasses.dataclass(frozen=True)
class _Folding:
    """How parameters are folded.

    Attributes:
        dtype: of the arithmetic: the widest of parameters, computation and float32. (float64 throughout would cost more
            time than the folded model saves in a short run.)
        in_place: whether kernels may be overwritten.
    """

    dtype: np.dtype
    in_place: bool

    def layer(self, layer: Params, head_dim: int, steps: tuple[AttentionStep, ...], *, cls_only: bool) -> Params:
        intermediate = self.after_norm(layer["mlp"]["intermediate"], layer["layernorm_after"])
        folded: Params = {"mlp": {"intermediate": intermediate, "output": layer["mlp"]["output"]}}
        for step in steps:
            attention = self.attention(layer[step.attention], layer[step.norm], head_dim)
            if cls_only and step is steps[-1]:
                qkv = attention.pop("qkv")
                attention["query"] = {"kernel": qkv["kernel"][:, :1], "bias": qkv["bias"][:1]}
                attention["key_value"] = {"kernel": qkv["kernel"][:, 1:], "bias": qkv["bias"][1:]}
            if step.dense is not None:
                attention["output"] = self.product(attention["output"], layer[step.dense])
            folded[step.attention] = attention
        return folded

    def product(self, inner: Params, outer: Params) -> Params:
        """One dense layer for two, the outer one after the inner."""
        kernel = self.wide(outer["kernel"])
        return {
            "kernel": np.tensordot(self.wide(inner["kernel"]), kernel, 1),
            "bias": self.wide(inner["bias"]) @ kernel + outer["bias"],
        }

    def attention(self, attention: Params, norm: Params, head_dim: int) -> Params:
        qkv = self.after_norm(attention["qkv"], norm)
        for leaf in qkv.values():
            leaf[..., 0, :, :] *= head_dim**-0.5
        return {"qkv": qkv, "output": attention["output"]}

    def after_norm(self, dense: Params, norm: Params) -> Params:
        """The dense layer that takes what the norm gives without its scale and bias."""
        kernel = self.wide(dense["kernel"])
        bias = np.tensordot(self.wide(norm["bias"]), kernel, 1)
        if "bias" in dense:
            bias = bias + dense["bias"]
        return {"kernel": self.scaled(kernel, self.wide(norm["scale"])), "bias": bias}

    def pixels(self, dense: Params, processor: VideoProcessor) -> Params:
        """The patch embedding of pixels from which `_pixel_centre` was subtracted."""
        factor, mean, deviation = _pixel_scale(processor)
        kernel = np.asarray(dense["kernel"]).astype(np.float64)
        offset = np.tensordot(kernel.sum((0, 1)).T, (np.array(_pixel_centre(processor)) * factor - mean) / deviation, 1)
        return {"kernel": kernel * (factor / deviation)[:, None], "bias": offset + dense["bias"]}

    def scaled(self, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """A kernel whose rows are scaled."""
        scale = scale.reshape(-1, *(1,) * (kernel.ndim - 1))
        return np.multiply(kernel, scale, out=kernel if self.in_place else None)

    def put(self, tree: Params, dtype: Any) -> Params:
        """On the device, in one type; a CPU adopts well aligned arrays as they are."""
        put = jax.device_put if self.in_place else jnp.array
        return jax.tree.map(lambda leaf: put(np.asarray(leaf).astype(dtype, copy=False)), tree)

    def wide(self, leaf: Any) -> np.ndarray:
        return np.asarray(leaf).astype(self.dtype, copy=False)


def _pixel_scale(processor: VideoProcessor) -> tuple[float, Array64, Array64]:
    """Factor, mean and standard deviation."""
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    if not processor.do_normalize:
        return factor, np.full(3, float(processor.offset)), np.ones(3)
    return factor, np.asarray(processor.image_mean) + processor.offset, np.asarray(processor.image_std)


def _pixel_centre(processor: VideoProcessor) -> tuple[int, ...]:
    """The whole number nearest the mean, for each channel."""
    factor, mean, _ = _pixel_scale(processor)
    centre = np.clip(np.rint(mean / factor), 0, 255) if factor else np.zeros(3)
    return tuple(map(int, centre))
