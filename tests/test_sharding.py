"""Meshes: the same numbers as on one device, to the last bits, and no more communication than there has to be."""

import dataclasses
import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from timesformer_jax.errors import ConfigError
from timesformer_jax.sharding import MeshConfig, ShardingRules, batch_share, global_batch, make_mesh, shardings_of

ROOT = Path(__file__).parents[1]
DIVIDED, JOINT, SPACE = "divided_space_time", "joint_space_time", "space_only"
SPARSE, AXIAL = "sparse_local_global", "axial"
MESHES_OF_8 = [mesh for mesh in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(mesh) == 8]
CLOSE = 1e-12


def on_eight_devices(script: str, *arguments: str) -> list[Any]:
    """What a script beside this file prints, run with eight simulated devices."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Unoptimised machine code is made three times faster, and the partitioner has done its work by then.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true",
    }
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def sharded_steps(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return on_eight_devices("sharded_steps.py", json.dumps(cases))


def assert_equal_to_one_device(cases: list[dict[str, Any]]) -> None:
    found = sharded_steps(cases)
    wrong = [
        (case, result["name"], result["difference"])
        for case, result in zip(cases, found, strict=True)
        if not result["difference"] <= CLOSE
    ]
    assert not wrong


def benchmark(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


# The partitioner once gave wrong gradients for the first of these, and for no other mesh (see TimesformerLayer).
FEW = [
    {"mesh": (2, 1, 1, 4), "dropout": 0.2},
    {"mesh": (1, 2, 2, 2), "dropout": 0.2, "remat": "full"},
    {"mesh": (1, 1, 2, 4), "attention": JOINT, "batch": 2},
    # A single row, for few windows: each block of them is compiled by itself.
    {"mesh": (1, 2, 2, 2), "attention": SPARSE, "frames": 4, "height": 4},
    {"mesh": (1, 2, 2, 2), "attention": AXIAL, "frames": 4, "height": 4},
]


@pytest.fixture(scope="module")
def few() -> list[dict[str, Any]]:
    """All at once: a process of eight devices takes its time to start."""
    return sharded_steps(FEW)


def test_loss_gradients_and_parameters_are_those_of_one_device(few: list[dict[str, Any]]) -> None:
    assert [(case, each["name"]) for case, each in zip(FEW, few, strict=True) if not each["difference"] <= CLOSE] == []


def test_patches_turn_by_all_to_all_alone(few: list[dict[str, Any]]) -> None:
    assert_no_gathered_patches(few[0]["text"])


def test_joint_attention_passes_keys_and_values_round(few: list[dict[str, Any]]) -> None:
    found = benchmark("collectives").collectives(few[2]["text"])
    # In each of two layers keys and values go to three others; in the backward pass round, with their gradients.
    assert sum(each.times for each in found if each.kind == "collective-permute") == 2 * (3 + 2 * 4)
    assert not [e for e in found if e.kind in ("all-gather", "all-to-all") and math.prod(e.shape) > 8 * 24]


def assert_no_gathered_patches(text: str) -> None:
    """Of the program of a case with its default sizes, on a mesh of data and frames alone."""
    found = benchmark("collectives").collectives(text)
    assert sum(each.times for each in found if each.kind == "all-to-all") >= 2 * 2 * 2  # layers, turns, both passes
    # Beside the turns there are CLS rows of 8 clips and 8 frames at most, ...
    rows = 8 * 8 * 24
    assert not [e for e in found if e.kind not in ("all-to-all", "all-reduce") and math.prod(e.shape) > rows]
    # ... and sums, of parameters (a kernel of both layers at most; a clip's patches are more on any of these meshes).
    assert not [e for e in found if e.kind == "all-reduce" and math.prod(e.shape) > 2 * 24 * 3 * 24]


@pytest.mark.slow
def test_whole_grids_of_the_schemes_that_were_never_released() -> None:
    mesh = (1, 2, 2, 2)
    assert_equal_to_one_device([{"mesh": mesh, "attention": SPARSE}, {"mesh": mesh, "attention": AXIAL, "frames": 4}])


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {},
        # JAX's random bits depend on the place in the array alone (jax_threefry_partitionable), not on the device.
        {"remat": "full", "dropout": 0.2},
        {"remat": "dots", "implementation": "blocks", "frames": 5, "heads": 3, "batch": 6, "height": 20, "labels": 7},
    ],
    ids=["plain", "remat and dropout", "blocks and sizes that nothing divides"],
)
@pytest.mark.parametrize("attention", [DIVIDED, JOINT, SPACE, SPARSE, AXIAL])
def test_every_mesh_of_eight(attention: str, changes: dict[str, Any]) -> None:
    assert_equal_to_one_device([{"mesh": mesh, "attention": attention, **changes} for mesh in MESHES_OF_8])


@pytest.mark.long
@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_patches_turn_by_all_to_all_alone_on_every_mesh(remat: str) -> None:
    meshes = [mesh for mesh in MESHES_OF_8 if mesh[3] > 1 and mesh[1] == mesh[2] == 1]
    for result in sharded_steps([{"mesh": mesh, "remat": remat} for mesh in meshes]):
        assert_no_gathered_patches(result["text"])


@pytest.mark.long
def test_the_step_for_gpus() -> None:
    """Without a GPU this is as far as it goes: that it runs, and NCCL's part, can be seen on one alone."""
    ((platforms, devices, text),) = on_eight_devices("cuda_step.py")
    assert (platforms, devices) == (["cuda"], 8)
    assert 'sdy.mesh @mesh = <["data"=1, "fsdp"=2, "tensor"=2, "frames"=2]>' in text
    head = text[text.index("func.func public @main(") :].splitlines()[0]
    # Parameters, momentum and average of the MLP's first kernel; and clips with their frames.
    assert head.count('<@mesh, [{}, {"fsdp"}, {"tensor"}]>') >= 3
    assert '<@mesh, [{"data", "fsdp"}, {"frames"}, {}, {}, {}]>' in head
    # The turns inside the layers.
    assert '<@mesh, [{"data", "fsdp"}, {"frames"}, {}, {}]>' in text
    assert '<@mesh, [{"data", "fsdp"}, {}, {"frames"}, {}]>' in text


@pytest.mark.slow
def test_inference_is_that_of_one_device() -> None:
    found = on_eight_devices("sharded_forward.py")
    assert len(found) == 5
    assert [(case, difference) for case, difference in found if not difference <= CLOSE] == []


def test_mesh_sizes() -> None:
    assert MeshConfig().shape(8) == (8, 1, 1, 1)
    assert MeshConfig(fsdp=2, frames=2).shape(8) == (2, 2, 1, 2)
    assert MeshConfig(data=4, tensor=2).shape(8) == (4, 1, 2, 1)
    with pytest.raises(ConfigError, match=r"= 3 does not divide the 8 devices"):
        MeshConfig(tensor=3).shape(8)
    with pytest.raises(ConfigError, match=r"mesh.data 3 .* = 6, but there are 8 devices"):
        MeshConfig(data=3, fsdp=2).shape(8)
    with pytest.raises(ConfigError, match=r"mesh.frames is 0"):
        MeshConfig(frames=0)


def test_rules_that_collide_are_refused() -> None:
    with pytest.raises(ConfigError, match="share a mesh axis"):
        ShardingRules(hidden="frames")
    with pytest.raises(ConfigError, match="share a mesh axis"):
        ShardingRules(mlp="fsdp")
    with pytest.raises(ConfigError, match="no axis time"):
        ShardingRules(batch="time")


def test_parameters_momentum_and_average_are_spread_alike() -> None:
    class Mesh:
        """As much of a mesh as specs need; this process has one device."""

        shape: ClassVar = {"data": 2, "fsdp": 4, "tensor": 2, "frames": 1}

    rules, mesh = ShardingRules(), Mesh()
    assert rules.spec(("embed", None, "heads", None), (24, 3, 4, 6), mesh) == PartitionSpec(  # type: ignore[arg-type]
        "fsdp", None, "tensor", None
    )
    # 3 heads on 2 devices: whole.
    assert rules.spec(("embed", None, "heads", None), (24, 3, 3, 8), mesh) == PartitionSpec(  # type: ignore[arg-type]
        "fsdp", None, None, None
    )


def test_what_is_no_parameter_is_on_every_device() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    tree = {"layers": {"mlp": {"output": {"kernel": jnp.zeros((2, 40, 24)), "bias": jnp.zeros((2, 24))}}}, "step": 0}
    found = shardings_of({"params": tree, "momentum": (tree,)}, mesh)
    layers = [found["params"]["layers"]["mlp"]["output"], found["momentum"][0]["layers"]["mlp"]["output"]]
    assert [layer["kernel"].spec for layer in layers] == [PartitionSpec(None, "tensor", "fsdp")] * 2
    assert [layer["bias"].spec for layer in layers] == [PartitionSpec()] * 2
    assert found["params"]["step"].spec == PartitionSpec()


def test_one_process_reads_everything() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert batch_share(mesh, 6) == (0, 1)
    local = {"frames": np.arange(6 * 2 * 3 * 4 * 3, dtype=np.uint8).reshape(6, 2, 3, 4, 3), "labels": np.arange(6)}
    placed = global_batch(local, mesh, 6)
    for name, values in local.items():
        np.testing.assert_array_equal(placed[name], values)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0':(1)2,'axis_1'}", 4),
    ],
)
def test_collectives_are_counted_in_loops(groups: str, size: int) -> None:
    text = f"""HloModule m

%body (p: (s32[], f32[4,6])) -> (s32[], f32[4,6]) {{
  %a = f32[4,6]{{1,0}} all-gather(%x), channel_id=1, {groups}, dimensions={{0}}, metadata={{op_name="jit(f)/a"}}
}}

%condition (p: (s32[], f32[4,6])) -> pred[] {{
  %c = s32[]{{:T(128)}} constant(12)
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}}

ENTRY %main (p: f32[4,6]) -> f32[4,6] {{
  %w = (s32[], f32[4,6]) while(%t), condition=%condition, body=%body
  %b = (bf16[2,3]{{1,0}}, bf16[8]{{0}}) all-reduce(%x, %y), channel_id=2, {groups}, to_apply=%add
  %p = f32[4]{{0}} collective-permute(%x), channel_id=1, source_target_pairs=0, metadata={{op_name="f/p"}}
  %q = f32[4]{{0}} collective-permute(%y), channel_id=1, source_target_pairs=0, metadata={{op_name="f/p"}}
}}
"""
    module = benchmark("collectives")
    gather, reduce, *passed = sorted(module.collectives(text), key=lambda each: each.kind)
    assert dataclasses.astuple(gather) == ("all-gather", ((4, 6),), 96, size, 12, "jit(f)/a")
    assert gather.sent == 96 * (size - 1) // size * 12
    assert (reduce.size, reduce.shape, reduce.times) == (28, (8,), 1)
    assert [each.sent for each in passed] == [16, 16]  # on one channel, as those of shard_map are


def test_the_tpu_compiler_takes_the_step() -> None:
    pytest.importorskip("libtpu")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / "tpu_compile.py"), "tiny"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert "fits" in result.stdout
    assert "all-to-all" in result.stdout
    assert "tokens all-gathered: 0.0 MB" in result.stdout


def test_a_mesh_that_cuts_through_the_axes_of_the_interconnect() -> None:
    """64 x 4 on 16 x 16 chips."""
    pytest.importorskip("libtpu")
    script = """
from jax.experimental import topologies
from timesformer_jax.sharding import MeshConfig, make_mesh
devices = topologies.get_topology_desc(platform="tpu", topology_name="v6e:16x16").devices
print(dict(make_mesh(MeshConfig(fsdp=4), devices).shape))
"""
    variables = {"TPU_ACCELERATOR_TYPE": "v6e-256", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_SKIP_MDS_QUERY": "1"}
    environment = os.environ | variables | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert result.stdout.strip() == "{'data': 64, 'fsdp': 4, 'tensor': 1, 'frames': 1}", result.stderr
