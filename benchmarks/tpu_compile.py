"""Compiles the training step and inference for TPU slices with the TPU compiler itself, on a machine without a TPU.

    pip install 'jax[tpu]'
    python benchmarks/tpu_compile.py                      # all cases; hours on a small machine
    python benchmarks/tpu_compile.py L-8 hr-8 --json report.json
    python benchmarks/tpu_compile.py --list

For each case: whether it compiles; bytes on a chip (arguments, temporaries, peak) beside the chip's memory; collectives
by kind, with the bytes that a chip sends, also of tokens that are gathered (not parameters, not CLS); FLOPs by the
shapes, and the step time that a roofline gives.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # compiling needs no chip, so nobody has to wait
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")

import argparse
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from collectives import Collective, by_kind, collectives
from jax.experimental import topologies
from roofline import ASSUMPTIONS, CHIPS, forward_flops, step_flops

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, VideoProcessor
from timesformer_jax.evaluation.prediction import make_predict
from timesformer_jax.sharding import (
    MeshConfig,
    ShardingRules,
    clip_sharding,
    clips_at_once,
    make_mesh,
    shardings_of,
    use_mesh,
)
from timesformer_jax.training.optimizer import make_optimizer
from timesformer_jax.training.recipe import TrainConfig
from timesformer_jax.training.schedule import learning_rate_schedule
from timesformer_jax.training.state import TrainState
from timesformer_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the report.

    Attributes:
        topology: TPU generation and slice, such as v5e:2x4.
        mesh: of its chips.
        frames: of a clip.
        size: pixels, a side of a frame.
        clips: in a batch, over all chips.
        train: the training step; else inference.
        attention: scheme.
        layers: of the encoder.
        goal: bytes on a chip that it has to stay under.
    """

    topology: str
    mesh: MeshConfig
    frames: int = 8
    size: int = 224
    clips: int = 8
    train: bool = True
    attention: str = "divided_space_time"
    layers: int = 12
    goal: float | None = None


CASES = {
    "tiny": Case("v5e:2x4", MeshConfig(frames=4), frames=8, size=64, layers=2),
    "L-8": Case("v5e:2x4", MeshConfig(), frames=96, goal=8e9),
    "L-8-frames": Case("v5e:2x4", MeshConfig(frames=4), frames=96, goal=8e9),
    "hr-8": Case("v5e:2x4", MeshConfig(), frames=16, size=448, clips=16, goal=16e9),
    "1024-frames": Case("v5e:4x8", MeshConfig(frames=32), frames=1024, clips=1, goal=4e9),
    "3600-frames": Case("v5e:8x8", MeshConfig(frames=16, tensor=4), frames=3600, clips=1, goal=16e9),
    "joint-96": Case("v5e:2x4", MeshConfig(frames=8), frames=96, clips=1, attention="joint_space_time", goal=16e9),
    # Frames and chips grow together.
    "long-256": Case("v5e:2x4", MeshConfig(frames=8), frames=256, clips=1),
    "long-512": Case("v5e:4x4", MeshConfig(frames=16), frames=512, clips=1),
    # Weak scaling: one clip of 96 frames a chip, each spread over four.
    "scale-8": Case("v5e:2x4", MeshConfig(fsdp=2, frames=4), frames=96, clips=8),
    "scale-32": Case("v5e:4x8", MeshConfig(fsdp=2, frames=4), frames=96, clips=32),
    "scale-64": Case("v5e:8x8", MeshConfig(fsdp=2, frames=4), frames=96, clips=64),
    "scale-256": Case("v5e:16x16", MeshConfig(fsdp=2, frames=4), frames=96, clips=256),
    # Every generation, from one chip.
    "v5e-1": Case("v5e:1x1", MeshConfig()),
    "v5p-1": Case("v5p:1x1x1", MeshConfig()),
    "v6e-1": Case("v6e:1x1", MeshConfig()),
    "v5p-4": Case("v5p:2x2x1", MeshConfig(tensor=2), clips=16),
    "v5p-256": Case("v5p:4x8x8", MeshConfig(fsdp=4), clips=2048),
    "v6e-8": Case("v6e:2x4", MeshConfig(fsdp=8), clips=64),
    "v6e-256": Case("v6e:16x16", MeshConfig(fsdp=4), clips=2048),
    # Ironwood: two devices a chip.
    "tpu7x-1": Case("tpu7x:1x1x1", MeshConfig(), clips=16),
    "tpu7x-64": Case("tpu7x:4x4x4", MeshConfig(fsdp=4), clips=1024),
    "infer-v5e-1": Case("v5e:1x1", MeshConfig(), train=False),
    "infer-v5p-4": Case("v5p:2x2x1", MeshConfig(), clips=32, train=False),
    "infer-v6e-8": Case("v6e:2x4", MeshConfig(), clips=64, train=False),
    "infer-L-256": Case("v5e:16x16", MeshConfig(frames=4), frames=96, clips=256, train=False),
}


def lowered(case: Case, mesh: jax.sharding.Mesh) -> tuple[Any, TimesformerConfig, Any]:
    """The real function of the case, on shapes alone; the configuration, and the parameters' shapes."""
    config = TimesformerConfig(
        num_frames=case.frames,
        image_size=case.size,
        attention_type=case.attention,  # pyright: ignore[reportArgumentType]
        num_hidden_layers=case.layers,
        num_labels=400,
        drop_path_rate=0.1,
    )
    model = TimesformerForVideoClassification(config, dtype=jnp.bfloat16, remat="full" if case.train else "none")
    processor = VideoProcessor(size=case.size, crop_size=(case.size, case.size))
    frames = (case.clips, case.frames, case.size, case.size, 3)

    def placed(tree: Any, shardings: Any) -> Any:
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
        )

    def clips(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=clip_sharding(mesh, shape))

    one = jax.ShapeDtypeStruct((1, *frames[1:]), jnp.float32)
    params: Any = jax.eval_shape(model.init, jax.random.key(0), one)["params"]
    if not case.train:
        params = placed(params, shardings_of(params, mesh))
        predict: Any = make_predict(model, processor)
        views = (case.clips, 1, *frames[1:])
        batch = jax.ShapeDtypeStruct(views, jnp.uint8, sharding=clip_sharding(mesh, views))
        with use_mesh(mesh):
            return predict.trace(params, batch).lower(lowering_platforms=("tpu",)), config, params
    recipe = TrainConfig(batch_size=case.clips)
    rate = learning_rate_schedule(recipe.schedule, 0.005, steps_per_epoch=1000, total_steps=15000)
    optimizer = make_optimizer(recipe.optimizer, rate, num_layers=case.layers)
    step = make_train_step(model, recipe, optimizer, rate, processor)
    state = jax.eval_shape(lambda params: TrainState.create(params, optimizer, ema=False), params)
    shardings = shardings_of(state, mesh)
    batch = {"frames": clips(frames, jnp.uint8), "labels": clips((case.clips,), jnp.int32)}
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    with use_mesh(mesh):
        return jitted.trace(placed(state, shardings), batch).lower(lowering_platforms=("tpu",)), config, params


def gathered_tokens(found: list[Collective], params: Any, mesh: jax.sharding.Mesh, cls: int) -> int:
    """Bytes that a chip sends in all-gathers of what is neither parameters (or gradients), nor CLS.

    Args:
        found: in the compiled program.
        params: shapes of the parameters.
        mesh: of the chips.
        cls: numbers in the CLS rows of a chip, one for each frame.
    """
    # Whole, or as `fsdp` gathers them; all layers together, or one.
    gathered = jax.tree.map(
        lambda leaf, sharding: sharding.shard_shape(leaf.shape),
        params,
        shardings_of(params, mesh, ShardingRules(embed=None)),
    )
    shapes = jax.tree.leaves(gathered, is_leaf=lambda node: isinstance(node, tuple))
    shapes += [leaf.shape for leaf in jax.tree.leaves(params)]
    sizes = {math.prod(shape[first:]) for shape in shapes for first in (0, 1)}
    return sum(
        each.sent
        for each in found
        if each.kind == "all-gather"
        if any(math.prod(shape) > cls and math.prod(shape) not in sizes for shape in each.shapes)
    )


def report(case: Case) -> dict[str, Any]:
    """Compiles a case; what is found, as JSON holds it."""
    generation, shape = case.topology.split(":")
    chip = CHIPS[generation]
    lengths = tuple(int(n) for n in shape.split("x"))
    single = {"chips_per_host_bounds": (1, 1, 1)} if np.prod(lengths) == 1 else {}
    description: Any = topologies.get_topology_desc(platform="tpu", topology_name=case.topology, **single)
    mesh = make_mesh(case.mesh, description.devices)
    start = time.monotonic()
    program, config, params = lowered(case, mesh)
    try:
        compiled = program.compile()
    except jax.errors.JaxRuntimeError as error:
        return {"compiles": False, "error": str(error).splitlines()[0][:300]}
    memory = compiled.memory_analysis()
    found = collectives(compiled.as_text())
    kinds = by_kind(found)
    sent = sum(kind["bytes"] for kind in kinds.values())
    forward = forward_flops(config, case.frames, case.size) * case.clips
    flops = step_flops(forward, recomputed=True) if case.train else forward
    compute, links = flops / mesh.size / chip.flops, sent / (chip.link_bandwidth / 2)
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    # Temporaries are the compiler's own figure for the moment when they are most.
    peak = arguments + temporaries + memory.output_size_in_bytes - memory.alias_size_in_bytes

    return {
        "compiles": True,
        "chips": mesh.size,
        "mesh": dict(mesh.shape),
        "arguments": arguments,
        "temporaries": temporaries,
        "peak": peak,
        "memory": chip.memory,
        "fits": peak < chip.memory,
        "goal": case.goal,
        "reached": None if case.goal is None else peak < case.goal,
        "collectives": kinds,
        "sent": sent,
        "gathered_tokens": gathered_tokens(
            found, params, mesh, max(1, case.clips // clips_at_once(mesh)) * case.frames * config.hidden_size
        ),
        "largest_gathers": sorted(
            {(each.shape, each.group, each.times) for each in found if each.kind == "all-gather"},
            key=lambda gather: -np.prod(gather[0]),
        )[:3],
        "flops": flops,
        "compute_seconds": compute,
        "link_seconds": links,
        "step_seconds": [max(compute, links), compute + links],
        "compile_seconds": time.monotonic() - start,
    }


def describe(name: str, case: Case, row: dict[str, Any]) -> str:
    """A row as text."""
    what = "training step" if case.train else "inference"
    head = f"{name}: {what}, {case.clips} clips of {case.frames} x {case.size}, {case.attention}, {case.topology}"
    if not row["compiles"]:
        return f"{head}\n  does not compile: {row['error']}"
    axes = " x ".join(f"{axis} {size}" for axis, size in row["mesh"].items())
    goal = "" if row["goal"] is None else f"; goal {row['goal'] / 1e9:.0f} GB: {'yes' if row['reached'] else 'NO'}"
    lines = [
        f"{head}, {axes}",
        f"  bytes a chip: arguments {row['arguments'] / 1e9:.2f} GB, temporaries {row['temporaries'] / 1e9:.2f} GB, "
        f"peak {row['peak'] / 1e9:.2f} GB of {row['memory'] / 1e9:.0f} GB: "
        f"{'fits' if row['fits'] else 'DOES NOT FIT'}{goal}",
        *(
            f"  {kind}: {values['count']} times, {values['bytes'] / 1e6:,.1f} MB sent by a chip"
            for kind, values in row["collectives"].items()
            if values["count"]
        ),
        f"  tokens all-gathered: {row['gathered_tokens'] / 1e6:,.1f} MB",
        f"  {row['flops'] / 1e12:,.1f} TFLOP; compute {row['compute_seconds'] * 1e3:,.1f} ms, "
        f"links {row['link_seconds'] * 1e3:,.1f} ms; step {row['step_seconds'][0] * 1e3:,.1f} to "
        f"{row['step_seconds'][1] * 1e3:,.1f} ms (compiled in {row['compile_seconds']:.0f} s)",
    ]
    return "\n".join(lines)


def main() -> int:
    """Runs the cases named."""
    parser = argparse.ArgumentParser(description="Compile for TPU slices without a TPU.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all when none is named")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CASES))
        return 0
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"there is no case {unknown[0]}; --list names them")
    rows: dict[str, Any] = {}
    for name in options.cases or CASES:
        rows[name] = report(CASES[name])
        print(describe(name, CASES[name], rows[name]), flush=True)
        if options.json:
            content = {"jax": jax.__version__, "assumptions": ASSUMPTIONS, "cases": rows}
            options.json.write_text(json.dumps(content, indent=2) + "\n")
    print(ASSUMPTIONS)
    return 0 if all(row["compiles"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
