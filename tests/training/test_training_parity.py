"""Training steps against PyTorch, in float64: gradients of every loss, and SGD with momentum over 20 steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pytorch import functional, torch
from reference import (
    ATTENTION_TYPES,
    BATCH,
    QUICK_COMPILE,
    TINY,
    assert_close,
    clip,
    run_reference,
    tiny_reference,
    to_flax,
    torch_names,
)

pytestmark = pytest.mark.usefixtures("x64")

CLASSES = TINY["num_labels"]

# name: (settings of the model, labels, the loss in PyTorch)
LOSSES: dict[str, tuple[dict[str, Any], np.ndarray, Any]] = {
    "cross-entropy": ({}, np.array([3, 6]), functional.cross_entropy),
    "cross-entropy-one-ignored": ({}, np.array([-100, 2]), functional.cross_entropy),
    "squared-error-one-label": (
        {"num_labels": 1},
        np.array([0.7, -1.9]),
        lambda logits, labels: functional.mse_loss(logits[:, 0], labels),
    ),
    "squared-error": (
        {"problem_type": "regression"},
        np.linspace(-2, 3, BATCH * CLASSES).reshape(BATCH, CLASSES),
        functional.mse_loss,
    ),
    "binary-cross-entropy": (
        {},
        np.resize([1.0, 0.0, 0.0, 1.0, 0.3], (BATCH, CLASSES)),
        functional.binary_cross_entropy_with_logits,
    ),
}


# All losses with one scheme, some with the others: the loss sees nothing of the scheme but the logits.
CASES = [("divided_space_time", name) for name in LOSSES] + [
    ("joint_space_time", "cross-entropy"),
    ("joint_space_time", "binary-cross-entropy"),
    ("space_only", "cross-entropy"),
    ("space_only", "squared-error"),
]


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK_COMPILE)
def value_and_grad(model: Any, params: Any, pixel_values: Any, labels: Any) -> Any:
    return jax.value_and_grad(lambda params: model.apply({"params": params}, pixel_values, labels).loss)(params)


@pytest.mark.gpu
@pytest.mark.parametrize(("attention_type", "name"), CASES)
def test_gradients_equal_autograd(attention_type, name):
    settings, labels, loss = LOSSES[name]
    reference = tiny_reference(attention_type=attention_type, **settings)
    model, params = to_flax(reference)
    pixel_values = clip(reference.config)

    actual, gradients = value_and_grad(model, params, pixel_values, labels)
    expected = loss(run_reference(reference, pixel_values).logits, torch.from_numpy(labels))
    expected.backward()

    # The value is rounded like the logits; a gradient is a longer sum over more steps, with some cancellation.
    assert_close(actual, expected, 1e-12, "losses")
    gradients = torch_names(gradients, model.config)
    expected_gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert expected_gradients[name].abs().max() > 1e-4, f"{name} has no gradient that would show anything"
        assert_close(gradient, expected_gradients[name], 1e-10, f"gradients of {name}")


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_twenty_steps_of_sgd_equal_pytorch(attention_type):
    reference = tiny_reference(attention_type=attention_type)
    model, params = to_flax(reference)
    pixel_values, labels = clip(reference.config), np.array([3, 6])
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}

    optimizer = torch.optim.SGD(reference.parameters(), lr=0.01, momentum=0.9)
    expected_losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = functional.cross_entropy(run_reference(reference, pixel_values).logits, torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        expected_losses.append(loss.item())

    sgd = optax.sgd(0.01, momentum=0.9)

    def step(state: Any, _: None) -> Any:
        params, sgd_state = state

        def loss_of(params: Any) -> Any:
            return model.apply({"params": params}, jnp.asarray(pixel_values), jnp.asarray(labels)).loss

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, sgd_state = sgd.update(gradients, sgd_state)
        return (optax.apply_updates(params, updates), sgd_state), loss

    run = jax.jit(lambda state: jax.lax.scan(step, state, length=20), compiler_options=QUICK_COMPILE)
    (params, _), losses = run((params, sgd.init(params)))

    assert expected_losses[-1] < 0.1 * expected_losses[0], f"nothing was learnt: {expected_losses}"
    # Each step feeds the next one's rounding: some digits less than a single gradient has.
    assert_close(losses, np.array(expected_losses), 1e-9, "losses")
    params = torch_names(params, model.config)
    for name, parameter in reference.state_dict().items():
        assert (parameter - before[name]).abs().max() > 1e-3, f"{name} was not trained"
        assert_close(params[name], parameter, 1e-9, name)
        assert np.abs(params[name] - parameter.numpy()).max() <= 1e-9
