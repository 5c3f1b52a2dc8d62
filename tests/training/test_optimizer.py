"""Twenty whole training steps against PyTorch's own optimizers, in float64."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pytorch import functional, lr_scheduler, torch
from reference import QUICK_COMPILE, TINY, run_reference, tiny_reference, to_flax, torch_names

from timesformer_jax import VideoProcessor
from timesformer_jax.training.optimizer import clip_by_norm, make_optimizer
from timesformer_jax.training.recipe import Optimizer, Schedule, TrainConfig
from timesformer_jax.training.schedule import learning_rate_schedule
from timesformer_jax.training.state import TrainState
from timesformer_jax.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("x64")

STEPS, BATCH, PARTS, STEPS_PER_EPOCH = 20, 4, 2, 5.0
PROCESSOR = VideoProcessor(size=12, crop_size=(12, 12))

RECIPES = {
    "sgd": TrainConfig(
        optimizer=Optimizer(learning_rate=0.02, weight_decay=0.05, clip_norm=2.0, ema_decay=0.9),
        schedule=Schedule(milestones=(1, 2.4)),
        batch_size=BATCH,
        accumulation=PARTS,
    ),
    "adamw": TrainConfig(
        optimizer=Optimizer(
            kind="adamw", learning_rate=2e-3, weight_decay=0.3, decay_all=False, layer_decay=0.6, ema_decay=0.8
        ),
        schedule=Schedule(kind="cosine", warmup_epochs=1, warmup_start=0.1, final=0.05),
        batch_size=BATCH,
        accumulation=PARTS,
    ),
}


def batches() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    shape = (BATCH, TINY["num_frames"], TINY["image_size"], TINY["image_size"], 3)
    return [
        {
            "frames": generator.integers(0, 256, shape, dtype=np.uint8),
            "labels": generator.integers(0, TINY["num_labels"], BATCH).astype(np.int32),
        }
        for _ in range(STEPS)
    ]


def torch_groups(reference: torch.nn.Module, recipe: Optimizer) -> list[dict[str, Any]]:
    """A group for each parameter, with its own learning rate and weight decay."""
    layers = TINY["num_hidden_layers"]
    groups = []
    for name, parameter in reference.named_parameters():
        depth = layers + 1
        if ".embeddings." in name:
            depth = 0
        elif ".layer." in name:
            depth = 1 + int(name.split(".layer.")[1].split(".")[0])
        is_kernel = parameter.ndim in (2, 4)
        groups.append(
            {
                "params": [parameter],
                "lr": recipe.learning_rate * recipe.layer_decay ** (layers + 1 - depth),
                "weight_decay": recipe.weight_decay if recipe.decay_all or is_kernel else 0.0,
            }
        )
    return groups


def train_in_torch(reference: torch.nn.Module, config: TrainConfig) -> torch.nn.Module:
    """Trains the reference in place; gives the moving average."""
    recipe, schedule = config.optimizer, config.schedule
    groups = torch_groups(reference, recipe)
    if recipe.kind == "sgd":
        optimizer: Any = torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov)
        milestones = [round(epoch * STEPS_PER_EPOCH) for epoch in schedule.milestones]
        scheduler: Any = lr_scheduler.MultiStepLR(optimizer, milestones, gamma=schedule.factor)
    else:
        optimizer = torch.optim.AdamW(groups, betas=(recipe.beta1, recipe.beta2), eps=recipe.epsilon)
        warmup = round(schedule.warmup_epochs * STEPS_PER_EPOCH)

        def factor(step: int) -> float:
            if step < warmup:
                return schedule.warmup_start + (1 - schedule.warmup_start) * step / warmup
            share = (step - warmup) / (STEPS - warmup)
            return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * share)) / 2

        scheduler = lr_scheduler.LambdaLR(optimizer, factor)
    average = torch.optim.swa_utils.AveragedModel(
        reference, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay)
    )
    average.update_parameters(reference)  # the first only copies
    for batch in batches():
        pixels = (batch["frames"].astype(np.float64) / 255 - 0.45) / 0.225
        optimizer.zero_grad()
        labels = torch.from_numpy(batch["labels"]).long()
        functional.cross_entropy(run_reference(reference, pixels).logits, labels).backward()
        if recipe.clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), recipe.clip_norm)
            assert norm > recipe.clip_norm, "nothing was clipped"
        optimizer.step()
        scheduler.step()
        average.update_parameters(reference)
    return average.module


@pytest.mark.parametrize("kind", RECIPES)
def test_twenty_steps_equal_pytorch(kind: str) -> None:
    config = RECIPES[kind]
    reference = tiny_reference()
    model, params = to_flax(reference)
    before = torch_names(params, model.config)

    rate = learning_rate_schedule(
        config.schedule, config.optimizer.learning_rate, steps_per_epoch=STEPS_PER_EPOCH, total_steps=STEPS
    )
    optimizer = make_optimizer(config.optimizer, rate, num_layers=model.config.num_hidden_layers)
    step = jax.jit(
        make_train_step(model, config, optimizer, rate, PROCESSOR), donate_argnums=0, compiler_options=QUICK_COMPILE
    )
    state = TrainState.create(params, optimizer, ema=True)
    for batch in batches():
        state, metrics = step(state, batch)
    assert metrics.loss.dtype == jnp.float64

    average = train_in_torch(reference, config)
    found, found_average = (torch_names(tree, model.config) for tree in (state.params, state.ema))
    expected_average = average.state_dict()
    for name, parameter in reference.state_dict().items():
        assert np.abs(parameter.numpy() - before[name]).max() > 1e-4, f"{name} was not trained"
        assert np.abs(found[name] - parameter.numpy()).max() <= 1e-9, name
        assert np.abs(found_average[name] - expected_average[name].numpy()).max() <= 1e-9, name
        assert np.abs(found_average[name] - found[name]).max() > 1e-6, f"the average of {name} is no average"
    assert int(state.step) == STEPS


def test_a_gradient_within_the_norm_is_left_alone() -> None:
    gradients = {"a": jnp.array([0.3, 0.4])}
    norm = optax.tree.norm(gradients)
    np.testing.assert_array_equal(clip_by_norm(gradients, norm, 1.0)["a"], gradients["a"])
    np.testing.assert_array_equal(clip_by_norm(gradients, norm, None)["a"], gradients["a"])
    np.testing.assert_allclose(optax.tree.norm(clip_by_norm(gradients, norm, 0.25)), 0.25, rtol=1e-5)
