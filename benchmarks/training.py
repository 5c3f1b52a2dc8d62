"""Time and memory of a training step of the base model, beside Transformers with torch.optim.SGD.

    python benchmarks/training.py [--rounds 3] [--clips 2]

Each side is a process of its own, and they take their steps in turn: 2 clips, float32, SGD with Nesterov momentum and
weight decay, after one step to warm up. Time is the median of the ratios of neighbouring steps; memory is the peak of
the process over the steps, imports included.
"""

import argparse
import json
import statistics
import subprocess
import sys

PRELUDE = """
import sys, time
import numpy as np
clips = int(sys.argv[1])

# Rows, inputs and outputs of the dense layers of one encoder layer: temporal qkv, projection and temporal_dense over
# the patches of all frames, spatial qkv and projection with CLS in each frame, MLP with one CLS.
PATCHES, SPATIAL, ALL = clips * 8 * 196, clips * 8 * 197, clips * (8 * 196 + 1)
DENSE = [(PATCHES, 768, 2304), (PATCHES, 768, 768), (PATCHES, 768, 768), (SPATIAL, 768, 2304), (SPATIAL, 768, 768),
         (ALL, 768, 3072), (ALL, 3072, 768)]

def products(array, multiply):
    # Seconds of all products of a step: y = x w, dw = x' dy, dx = dy w'.
    random = np.random.default_rng(0)
    seconds = 0.0
    for rows, inputs, outputs in DENSE:
        x, w, dy = (array(random.standard_normal(shape, np.float32))
                    for shape in ((rows, inputs), (inputs, outputs), (rows, outputs)))
        for kind, a, b in (("nn", x, w), ("tn", x, dy), ("nt", dy, w)):
            multiply(kind, a, b)
            start = time.perf_counter()
            for _ in range(3):
                multiply(kind, a, b)
            seconds += 12 * (time.perf_counter() - start) / 3
    return seconds

def serve(step, array, multiply):
    step()  # to warm up
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "products\\n":
            print(products(array, multiply), flush=True)
            continue
        if line == "peak\\n":
            # Not getrusage: a child's ru_maxrss begins at what its parent had.
            status = open("/proc/self/status").readlines()
            print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), flush=True)
            continue
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)
"""

TRANSFORMERS = (
    PRELUDE
    + """
import torch, transformers
torch.manual_seed(0)
model = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(num_labels=400)).train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, nesterov=True, weight_decay=1e-4)
pixel_values = torch.randn(clips, 8, 3, 224, 224)
labels = torch.arange(clips)

def step():
    optimizer.zero_grad()
    loss = model(pixel_values, labels=labels).loss
    loss.backward()
    optimizer.step()
    assert loss.isfinite()

# Written over and over, as memory that the allocator hands out again would be.
results = {}
def multiply(kind, a, b):
    a, b = a.t() if kind == "tn" else a, b.t() if kind == "nt" else b
    shape = (a.shape[0], b.shape[1])
    if shape not in results:
        results[shape] = torch.empty(shape)
    torch.mm(a, b, out=results[shape])

serve(step, torch.from_numpy, multiply)
"""
)

OURS = (
    PRELUDE
    + """
import jax, jax.numpy as jnp, numpy as np
from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, VideoProcessor
from timesformer_jax.support.compilation import compiler_options, release_memory
from timesformer_jax.training.initial_model import abstract_params
from timesformer_jax.training.optimizer import make_optimizer
from timesformer_jax.training.recipe import TrainConfig
from timesformer_jax.training.schedule import learning_rate_schedule
from timesformer_jax.training.state import TrainState
from timesformer_jax.training.step import make_train_step

config = TimesformerConfig.preset("base-k400")
recipe = TrainConfig(batch_size=clips)
model = TimesformerForVideoClassification(config, remat=sys.argv[2])
rate = learning_rate_schedule(recipe.schedule, recipe.optimizer.learning_rate, steps_per_epoch=100, total_steps=1500)
optimizer = make_optimizer(recipe.optimizer, rate, num_layers=config.num_hidden_layers)
params = abstract_params(config, jnp.float32)
shapes = jax.eval_shape(lambda params: TrainState.create(params, optimizer, ema=False), params)
batch = {
    "frames": np.random.default_rng(0).integers(0, 256, (clips, 8, 224, 224, 3), dtype=np.uint8),
    "labels": np.arange(clips, dtype=np.int32),
}
train_step = make_train_step(model, recipe, optimizer, rate, VideoProcessor())
train_step = jax.jit(train_step, donate_argnums=0, compiler_options=compiler_options())
random = np.random.default_rng(0)
params = jax.tree.map(lambda leaf: jnp.asarray(0.02 * random.standard_normal(leaf.shape, np.float32)), params)
state = TrainState.create(params, optimizer, ema=False)
del params
train_step = train_step.lower(shapes, batch).compile()
release_memory()  # as the loop does

def step():
    global state
    state, metrics = train_step(state, batch)
    assert np.isfinite(metrics.loss)

axes = {"nn": ((1,), (0,)), "tn": ((0,), (0,)), "nt": ((1,), (1,))}
product = jax.jit(
    lambda kind, a, b: jax.lax.dot_general(a, b, (axes[kind], ((), ()))),
    static_argnums=0,
    compiler_options=compiler_options(),
)
serve(step, jnp.asarray, lambda *arguments: product(*arguments).block_until_ready())
"""
)


class Side:
    """One of those compared, in a process that takes a step when it is told to."""

    def __init__(self, program: str, *arguments: str) -> None:
        """Starts the process."""
        command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError("a process ended before its time.")
        return answer

    def ask(self, what: str) -> float:
        """Seconds of one "step", or of its "products"; or the most bytes that the process has had, "peak"."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return float(self._answer())


def main() -> None:
    """Measures, and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="steps of each side")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--remat", nargs="+", default=["dots", "clips"], help="what to compare")
    arguments = parser.parse_args()
    clips = str(arguments.clips)
    sides = {"transformers": Side(TRANSFORMERS, clips)}
    sides |= {remat: Side(OURS, clips, remat) for remat in arguments.remat}
    seconds: dict[str, dict[str, list[float]]] = {what: {name: [] for name in sides} for what in ("step", "products")}
    peaks: dict[str, float] = {}
    for what, columns in seconds.items():
        for _ in range(arguments.rounds):
            for name, side in sides.items():
                columns[name].append(side.ask(what))
        if what == "step":  # before arrays of the products come on top
            peaks = {name: side.ask("peak") for name, side in sides.items()}
    print(f"{'':14}{'seconds':>9}{'products':>10}{'GB':>7}{'times as fast':>15}{'of the memory':>15}")
    for name in sides:
        step, products = (statistics.median(columns[name]) for columns in seconds.values())
        pairs = zip(seconds["step"]["transformers"], seconds["step"][name], strict=True)
        speed = statistics.median(one / other for one, other in pairs)
        print(
            f"{name:14}{step:9.1f}{products:10.1f}{peaks[name] / 1e9:7.2f}{speed:15.2f}"
            f"{peaks[name] / peaks['transformers']:15.2f}"
        )
    print(json.dumps({"seconds": seconds, "bytes": peaks}))


if __name__ == "__main__":
    main()
