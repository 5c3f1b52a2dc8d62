"""The table of parameters: it knows those of every model, and what it does not know is refused, not left whole."""

import dataclasses
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec
from tiny_flax import tiny_flax

from timesformer_jax import TimesformerModel
from timesformer_jax.checkpoints.mapping import flat_names
from timesformer_jax.checkpoints.training_run import _FIELDS
from timesformer_jax.config import AttentionType
from timesformer_jax.errors import ConfigError
from timesformer_jax.inference.folding import folded_shapes, inference_module
from timesformer_jax.inference.quantization import quantized_shapes
from timesformer_jax.parameters import axis_sizes, find_parameter, parameters
from timesformer_jax.sharding import MeshConfig, make_mesh, shardings_of
from timesformer_jax.training.step import TrainState

MESH = make_mesh(MeshConfig(), jax.devices()[:1])


def specs(tree: Any) -> dict[str, PartitionSpec]:
    shardings = jax.tree.leaves_with_path(shardings_of(tree, MESH))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): sharding.spec for path, sharding in shardings}


@pytest.mark.parametrize("attention_type", get_args(AttentionType))
@pytest.mark.parametrize("labels", [7, 0])
def test_names_and_axes_are_those_of_the_model(attention_type: str, labels: int) -> None:
    for kind in (None, TimesformerModel):
        model, params = tiny_flax(attention_type, *([kind] if kind else []), dtype=jnp.float32, num_labels=labels)
        sizes, layers = axis_sizes(model.config), (model.config.num_hidden_layers,)
        expected = {
            "/".join(each.full_path(head=kind is None)): (layers if each.in_layer else ())
            + tuple(sizes[axis] for axis in (*each.inputs, *each.outputs))
            for each in parameters(model.config, head=kind is None)
        }
        assert {name: leaf.shape for name, leaf in flat_names(params).items()} == expected


@pytest.mark.parametrize("attention_type", get_args(AttentionType))
def test_state_and_inference_trees_are_known(attention_type: str) -> None:
    model, params = tiny_flax(attention_type, dtype=jnp.float32)
    for optimizer in (optax.adamw(1e-3), optax.sgd(optax.linear_schedule(0, 1, 9), 0.9)):
        state = jax.eval_shape(lambda tree, o=optimizer: TrainState.create(tree, o, ema=True), params)
        found = specs(state)
        name = "timesformer/encoder/layers/mlp/output/kernel"
        places = [spec for path, spec in found.items() if path.endswith(name)]
        assert len(places) == (4 if "optimizer/0/mu/" + name in found else 3)
        assert set(places) == {PartitionSpec(None, "tensor", "fsdp")}
        assert all(found[path] == PartitionSpec() for path in found if path.endswith(("step", "count")))
    folded = folded_shapes(inference_module(model))
    for tree in ({"params": folded}, quantized_shapes(folded)):
        found = specs(tree)
        assert found["params/layer_0/attention/qkv/kernel"] == PartitionSpec("fsdp", None, "tensor", None)
        # The last layer's, where CLS alone is computed.
        assert found["params/layer_1/attention/query/kernel"] == PartitionSpec("fsdp", None, "tensor", None)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (("timesformer", "encoder", "layers", "adapter", "kernel"), (2, 24, 8)),
        (("params", "classifier", "kernels"), (24, 7)),
        (("kernel",), (24, 7)),
        (("classifier", "kernel"), (2, 24, 7)),  # no parameter of a layer, so never stacked
        (("encoder", "layers", "mlp", "output", "kernel"), (5, 2, 40, 24)),
        (("encoder", "layers", "mlp", "output", "kernel"), (40,)),
    ],
)
def test_what_is_not_known_is_refused(path: tuple[str, ...], shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"is no parameter that parameters\.py knows"):
        find_parameter(path, shape)
    tree: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
    for name in reversed(path):
        tree = {name: tree}
    for whole in (tree, {"params": tree}, (tree, {"ema": tree})):
        with pytest.raises(ConfigError, match="/".join(path)):
            shardings_of(whole, MESH)


def test_the_state_has_the_fields_from_which_checkpoints_are_loaded() -> None:
    assert set(_FIELDS.values()) <= {field.name for field in dataclasses.fields(TrainState)}
