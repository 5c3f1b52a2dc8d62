"""Weights in eight bits: a quarter of the memory of float32, a little of the accuracy.

Each kernel is kept as whole numbers from -127 to 127 and one scale for every output channel, which is multiplied onto
the layer's output: `x @ (q * scale) = (x @ q) * scale`. Only the kernel in use is ever widened to the type of the
computation, inside the compiled function. Embeddings and biases stay as they are.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checkpoints.mapping import Params
from ..parameters import find_parameter
from .folding import InferenceModel

SCALES = "scales"
"""The collection of variables beside "params"."""

LARGEST = 127


def quantize(params: Params) -> dict[str, Params]:
    """Folded parameters (see folding.py) to variables whose kernels are int8: {"params": ..., "scales": ...}."""
    kept, scales = _quantize(params, ())
    return {"params": kept, SCALES: scales}


def _quantize(tree: Params, path: tuple[str, ...]) -> tuple[Params, Params]:
    kept: Params = {}
    scales: Params = {}
    if "kernel" in tree:
        kernel = np.asarray(tree["kernel"]).astype(np.float32)
        scale = _scale(kernel, kernel_inputs(path, kernel))
        kept["kernel"] = jax.device_put(np.rint(kernel / scale).astype(np.int8))
        # In float32: a scale rounded further would move whole channels.
        return kept | {"bias": tree["bias"]}, {"scale": jax.device_put(scale)}
    for name, value in tree.items():
        if isinstance(value, dict):
            kept[name], inner = _quantize(value, (*path, name))
            if inner:
                scales[name] = inner
        else:
            kept[name] = value
    return kept, scales


def kernel_inputs(path: tuple[str, ...], kernel: Any) -> int:
    """How many leading axes of the kernel at a path are contracted."""
    return len(find_parameter((*path, "kernel"), kernel.shape).inputs)


def _scale(kernel: np.ndarray, inputs: int) -> np.ndarray:
    largest = np.abs(kernel).max(axis=tuple(range(inputs)))
    return np.where(largest == 0, np.float32(1), largest / LARGEST)


def quantized_shapes(shapes: Params, path: tuple[str, ...] = ()) -> dict[str, Params]:
    """What `quantize` makes of parameters of these shapes and types."""
    kept: Params = {}
    scales: Params = {}
    for name, value in shapes.items():
        if not isinstance(value, dict):
            kept[name] = value
        elif "kernel" in value:
            kernel = value["kernel"]
            outputs = kernel.shape[kernel_inputs((*path, name), kernel) :]
            kept[name] = {"kernel": jax.ShapeDtypeStruct(kernel.shape, jnp.int8), "bias": value["bias"]}
            scales[name] = {"scale": jax.ShapeDtypeStruct(outputs, jnp.float32)}
        else:
            inner = quantized_shapes(value, (*path, name))
            kept[name] = inner["params"]
            if inner[SCALES]:
                scales[name] = inner[SCALES]
    return {"params": kept, SCALES: scales}


def apply(module: InferenceModel, variables: dict[str, Params], frames: Any) -> Float[Array, "b labels"]:
    """Logits of a folded model, whether its kernels are quantized or not."""
    if SCALES not in variables:
        return module.apply(variables, frames)  # pyright: ignore[reportReturnType]
    with nn.intercept_methods(_dense):
        return module.apply(variables, frames)  # pyright: ignore[reportReturnType]


def _dense(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
) -> Any:
    """Takes the place of the dense layers' own computation."""
    layer = context.module
    if not isinstance(layer, nn.DenseGeneral) or context.method_name != "__call__":
        return call(*args, **kwargs)
    (inputs,) = args
    kernel, bias = layer.get_variable("params", "kernel"), layer.get_variable("params", "bias")
    # Without something of the inputs in it, XLA on a CPU would widen the kernels of all layers before it uses the first
    # (an optimization_barrier is gone by the time it plans memory). 0 * x is not known to be 0: x may be NaN.
    kernel += (0 * inputs[(0,) * inputs.ndim].astype(jnp.float32)).astype(jnp.int8)
    axes = layer.axis if isinstance(layer.axis, tuple) else (layer.axis,)
    contracted = tuple(axis % inputs.ndim for axis in axes)
    dtype = jnp.dtype(layer.dtype)
    output = jax.lax.dot_general(
        inputs.astype(dtype),
        kernel.astype(dtype),
        ((contracted, tuple(range(len(contracted)))), ((), ())),
        precision=layer.precision,
        preferred_element_type=jnp.promote_types(dtype, jnp.float32),
    )
    return (output * layer.get_variable(SCALES, "scale") + bias).astype(dtype)
