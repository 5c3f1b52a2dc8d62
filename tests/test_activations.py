"""Every activation against Transformers' function of the same name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytorch import torch, transformers
from reference import assert_close

from timesformer_jax.activations import ACTIVATIONS

WITH_PARAMETERS = {"prelu", "xielu"}


def in_pytorch(name: str) -> torch.nn.Module:
    if name == "selu":  # in Transformers' documentation alone
        return torch.nn.SELU()
    return transformers.activations.ACT2FN[name]


def test_names_are_those_of_transformers():
    assert set(ACTIVATIONS) == set(transformers.activations.ACT2CLS) - WITH_PARAMETERS | {"selu"}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_slopes_equal_transformers(name):
    # No zero, where a kink's slope is a matter of convention; far enough out for gelu_10 to clip, others to saturate.
    x = np.concatenate([np.linspace(-8, 8, 2000), [-60.0, -20.5, -1e-9, 1e-9, 20.5, 60.0]])
    inputs = torch.from_numpy(x).requires_grad_()
    expected = in_pytorch(name)(inputs)
    (slopes,) = torch.autograd.grad(expected.sum(), inputs)
    # Rounding of one formula: constants of fewer digits than these 13 would show.
    assert_close(ACTIVATIONS[name](jnp.asarray(x)), expected, 1e-13, name)
    assert_close(jax.vmap(jax.grad(ACTIVATIONS[name]))(jnp.asarray(x)), slopes, 1e-13, f"slopes of {name}")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_keeps_type_and_survives_large_values(name, dtype):
    x = jnp.asarray([-1e4, -100, -1, 0, 1, 100, 1e4], dtype)
    y = ACTIVATIONS[name](x)
    assert y.dtype == x.dtype
    assert np.isfinite(np.asarray(y, np.float32)).all(), f"{name}{x} = {y}"
