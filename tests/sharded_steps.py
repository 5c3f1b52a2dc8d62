"""Run by test_sharding.py in a process of its own with eight simulated devices: how far meshes are from one device.

Takes a list of cases as JSON; gives for each what differs most (relative to the largest number of its array) and the
compiled program.
"""

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification
from timesformer_jax.sharding import MeshConfig, global_batch, make_mesh, shardings_of, use_mesh


@dataclasses.dataclass(frozen=True)
class Case:
    """One training run of three steps; `mesh` lists data, fsdp, tensor and frames."""

    mesh: tuple[int, int, int, int] | None
    attention: str = "divided_space_time"
    remat: str = "none"
    dropout: float = 0.0
    frames: int = 8
    heads: int = 4
    batch: int = 8
    height: int = 12
    labels: int = 6
    implementation: str = "auto"

    def run(self) -> tuple[dict[str, np.ndarray[Any, Any]], str]:
        """Loss and gradients of the first step, parameters and momentum after three; the compiled program."""
        config = TimesformerConfig(
            num_hidden_layers=2,
            hidden_size=24,
            num_attention_heads=self.heads,
            intermediate_size=40,
            image_size=(self.height, 16),
            patch_size=4,
            num_frames=self.frames,
            attention_type=self.attention,  # type: ignore[arg-type]
            num_labels=self.labels,
            drop_path_rate=self.dropout,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
        )
        model = TimesformerForVideoClassification(
            config,
            dtype=jnp.float64,
            param_dtype=jnp.float64,
            remat=self.remat,  # type: ignore[arg-type]
            attention_implementation=self.implementation,  # type: ignore[arg-type]
        )
        batch = {
            "x": np.random.default_rng(0).normal(size=(self.batch, self.frames, self.height, 16, 3)),
            "y": np.arange(self.batch) % self.labels,
        }
        shapes: Any = jax.eval_shape(model.init, jax.random.key(0), batch["x"])["params"]
        rng = np.random.default_rng(1)  # nothing is zero, as embeddings and biases are at first
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) * 0.2, shapes)
        optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)

        def step(state: Any, batch: Any, key: Any) -> Any:
            params, memory = state

            def loss_of(params: Any) -> Any:
                return model.apply(
                    {"params": params}, batch["x"], labels=batch["y"], train=self.dropout > 0, rngs={"dropout": key}
                ).loss  # type: ignore[union-attr]

            loss, gradients = jax.value_and_grad(loss_of)(params)
            updates, memory = optimizer.update(gradients, memory, params)
            return (optax.apply_updates(params, updates), memory), loss, gradients

        state: Any = (params, optimizer.init(params))
        mesh = make_mesh(MeshConfig(*(self.mesh or (1, 1, 1, 1))), jax.devices()[: None if self.mesh else 1])
        places = shardings_of(state, mesh)
        state, placed = jax.device_put(state, places), global_batch(batch, mesh, self.batch)
        first: Any = None
        with use_mesh(mesh):
            jitted = jax.jit(step, out_shardings=(places, None, places[0]))
            compiled = jitted.lower(state, placed, jax.random.key(0)).compile()
            for number in range(3):
                state, loss, gradients = compiled(state, placed, jax.random.key(number))
                first = first or {"loss": loss, "gradients": gradients}
        result = {**first, "state": state}
        values = {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
            for path, leaf in jax.tree.leaves_with_path(result)
        }
        return values, compiled.as_text() or ""


def largest_difference(found: dict[str, Any], reference: dict[str, Any]) -> tuple[float, str]:
    assert found.keys() == reference.keys()
    return max((float(np.abs(found[k] - v).max() / np.abs(v).max()), k) for k, v in reference.items())


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    references: dict[Case, Any] = {}
    for fields in json.loads(sys.argv[1]):
        case = Case(**{**fields, "mesh": tuple(fields["mesh"])})
        alone = dataclasses.replace(case, mesh=None, remat="none", implementation="plain")
        if alone not in references:
            references[alone], _ = alone.run()
        found, text = case.run()
        difference, name = largest_difference(found, references[alone])
        print(json.dumps({"difference": difference, "name": name, "text": text}), flush=True)


if __name__ == "__main__":
    main()
