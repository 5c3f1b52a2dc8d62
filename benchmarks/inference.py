"""Forward passes against PyTorch: time side by side in one run, memory in a process each, distance from the limit.

    python benchmarks/inference.py                          # the standard rows, some minutes
    python benchmarks/inference.py --rows divided-8x1 --repeats 7 --compile --json out.json
    python benchmarks/inference.py --list

A row is a kind of attention, frames and clips: "divided-8x4" is divided attention over four clips of 8 frames. Both
sides get the base model (400 classes, 224 x 224 pixels) in float32 from one checkpoint with random weights, every
tensor of it disturbed, and all cores. Logits must agree before anything is timed. Then the two take turns, and the
median of the ratios counts. Here: the folded model, clip after clip on a CPU. There: Transformers under
`torch.inference_mode()`.

The limit is what the matrix products of the forward pass take by themselves, in the same run: the same shapes, nothing
between them. After the standard rows: whole processes, from a video file to its label (first_answer.py).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import first_answer
import numpy as np

ATTENTION_TYPES = {"divided": "divided_space_time", "joint": "joint_space_time", "space": "space_only"}
STANDARD = ("divided-8x1", "divided-8x4", "divided-8x16", "divided-32x1", "joint-8x1", "joint-32x1", "space-8x1")
MORE = ("divided-96x1", "joint-96x1", "space-32x1")
ALONE = ("joint-96x1",)
"""The reference needs 17 GB for each layer's attention here."""

TOLERANCE = 2e-5
"""Of the largest logit: a few times float32's rounding, through all layers."""

Case = tuple[str, int, int]


def parse(name: str) -> Case:
    """Attention, frames and clips of a row."""
    kind, _, sizes = name.partition("-")
    frames, _, clips = sizes.partition("x")
    return ATTENTION_TYPES[kind], int(frames), int(clips)


def make_checkpoint(directory: Path, attention_type: str) -> Path:
    """A base-size checkpoint with random values in every tensor, on the scale of its inputs."""
    import torch
    import transformers

    path = directory / attention_type
    if path.is_dir():
        return path
    generator = torch.Generator().manual_seed(0)
    config = transformers.TimesformerConfig(num_labels=400, attention_type=attention_type)
    model = transformers.TimesformerForVideoClassification(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                noise = 1 + 0.3 * noise
            elif tensor.ndim in (2, 4) and not name.startswith("classifier"):
                noise *= 1.5 / tensor[0].numel() ** 0.5
            tensor.copy_(0.5 * noise if tensor.ndim == 1 and "norm" not in name else noise)
    model.save_pretrained(path)
    return path


def random_clips(frames: int, clips: int) -> np.ndarray:
    """Pixel values (clips, frames, height, width, channels)."""
    return np.random.default_rng(0).standard_normal((clips, frames, 224, 224, 3), np.float32)


def ours(path: Path, pixel_values: np.ndarray) -> Callable[[], np.ndarray]:
    """The forward pass of this package."""
    from timesformer_jax import TimesformerForVideoClassification
    from timesformer_jax.inference.batching import Forward
    from timesformer_jax.inference.folding import fold_for_inference

    module, params = fold_for_inference(*TimesformerForVideoClassification.from_pretrained(path))
    forward = Forward(module, {"params": params})
    return lambda: np.asarray(forward(pixel_values))


def reference(path: Path, pixel_values: np.ndarray, *, compiled: bool = False) -> Callable[[], np.ndarray]:
    """The forward pass of Transformers; it is told how many frames there are, by which it regroups tokens."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    model: Any = transformers.TimesformerForVideoClassification.from_pretrained(path).eval()
    model.config.num_frames = pixel_values.shape[1]
    frames = torch.from_numpy(np.ascontiguousarray(pixel_values.transpose(0, 1, 4, 2, 3)))
    run = torch.compile(model) if compiled else model

    def forward() -> np.ndarray:
        with torch.inference_mode():
            logits = run(frames).logits
        if model.config.attention_type == "space_only":  # one row a frame, where there should be one a clip
            return logits.numpy().reshape(len(pixel_values), -1, logits.shape[-1])
        return logits.numpy()

    return forward


def products(attention_type: str, frames: int, clips: int) -> Callable[[], object]:
    """The matrix products of the folded forward pass, one after the other."""
    import jax
    import jax.numpy as jnp

    from timesformer_jax.support.compilation import compiler_options

    width, heads, patches, layers = 768, 12, 196, 12
    tokens = {"divided_space_time": frames * (patches + 1), "space_only": frames * (patches + 1)}.get(
        attention_type, frames * patches + 1
    )
    divided, joint = attention_type == "divided_space_time", attention_type == "joint_space_time"
    rows = frames * patches
    groups, size = (1, tokens) if joint else (frames, patches + 1)
    turn = [((rows, width), (width, 3 * width)), ((rows, width), (width, width))]
    if divided:
        turn += [
            ((patches * heads, frames, width // heads), (patches * heads, width // heads, frames)),
            ((patches * heads, frames, frames), (patches * heads, frames, width // heads)),
        ]
    space = [
        ((tokens, width), (width, 3 * width)),
        ((groups * heads, size, width // heads), (groups * heads, width // heads, size)),
        ((groups * heads, size, size), (groups * heads, size, width // heads)),
        ((tokens, width), (width, width)),
        ((tokens, width), (width, 4 * width)),
        ((tokens, 4 * width), (4 * width, width)),
    ]
    last = [((tokens, width), (width, 2 * width))]
    calls = [
        (((rows, width), (width, width)), 1),
        *(((shapes), layers) for shapes in (turn if divided else [])),
        *(((shapes), layers - 1) for shapes in space),
        *(((shapes), 1) for shapes in last),
    ]
    product = jax.jit(jnp.matmul, compiler_options=compiler_options())
    largest = max(int(np.prod(shape)) for (shapes, _) in calls for shape in shapes)
    noise = np.random.default_rng(0).standard_normal(largest, np.float32)
    arrays = [
        ([jnp.asarray(noise[: int(np.prod(shape))].reshape(shape)) for shape in shapes], count * clips)
        for shapes, count in calls
    ]

    def run() -> None:
        for (left, right), count in arrays:
            for _ in range(count):
                product(left, right).block_until_ready()

    return run


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(name: str, directory: Path, repeats: int, *, compiled: bool) -> dict[str, Any]:
    """One row: differences, medians, ratios, memory."""
    attention_type, frames, clips = parse(name)
    path, pixel_values = make_checkpoint(directory, attention_type), random_clips(frames, clips)
    sides: dict[str, Callable[[], object]] = {"ours": ours(path, pixel_values)}
    result: dict[str, Any] = {"row": name}
    if name not in ALONE:
        sides["eager"] = reference(path, pixel_values)
        expected: Any = sides["eager"]()
        actual: Any = sides["ours"]()
        if expected.ndim == 3:  # nothing to compare with: the reference does not average the frames
            result["difference"] = None
        else:
            result["difference"] = float(np.abs(actual - expected).max() / np.abs(expected).max())
            if not result["difference"] <= TOLERANCE:
                raise SystemExit(f"{name}: logits differ by {result['difference']:.1e} of the largest.")
        if compiled:
            sides["compiled"] = reference(path, pixel_values, compiled=True)
            sides["compiled"]()
        if attention_type != "joint_space_time" or frames <= 8:
            sides["limit"] = products(attention_type, frames, clips)
            sides["limit"]()
    else:
        sides["ours"]()
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, run in sides.items():
            times[side].append(seconds(run))
    result["seconds"] = {side: statistics.median(values) for side, values in times.items()}
    for side in ("eager", "compiled"):
        if side in times:
            ratios = [a / b for a, b in zip(times[side], times["ours"], strict=True)]
            result[f"times as fast as {side}"] = statistics.median(ratios)
    if "limit" in times:
        ratios = [a / b for a, b in zip(times["limit"], times["ours"], strict=True)]
        result["share of the limit"] = statistics.median(ratios)
    return result


def peak(name: str, directory: Path, side: str) -> int:
    """Peak bytes of one side's forward pass, in a process of its own."""
    command = [sys.executable, __file__, "--rows", name, "--directory", str(directory), "--peak", side]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return int(output.split()[-1])


def report_peak(name: str, directory: Path, side: str) -> None:
    """Runs one side and prints the peak of this process; not ru_maxrss, which begins at what the parent had."""
    attention_type, frames, clips = parse(name)
    path, pixel_values = make_checkpoint(directory, attention_type), random_clips(frames, clips)
    (ours if side == "ours" else reference)(path, pixel_values)()
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))


def machine() -> dict[str, Any]:
    """What ran this."""
    import jax
    import torch
    import transformers

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    versions = {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def table_line(result: dict[str, Any]) -> str:
    """One row of the table."""
    peaks = {side: f"{size / 1e9:.2f}" for side, size in result.get("peak bytes", {}).items()}

    def cell(key: str, form: str) -> str:
        value = result.get(key)
        return "-" if value is None else format(value, form)

    return (
        f"{result['row']:14} {result['seconds']['ours']:9.2f} {cell('times as fast as eager', '.2f'):>10} "
        f"{cell('times as fast as compiled', '.2f'):>10} {cell('share of the limit', '.0%'):>8} "
        f"{cell('difference', '.1e'):>11} {peaks.get('ours', '-'):>9} {peaks.get('eager', '-'):>9}"
    )


def main() -> None:
    """Measures, and prints a table and, if asked, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(STANDARD), choices=STANDARD + MORE, metavar="ROW")
    parser.add_argument("--repeats", type=int, default=5, help="turns that are timed")
    parser.add_argument(
        "--compile", action="store_true", help="against torch.compile, too, which compiles for a minute"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--directory", type=Path, help="where the checkpoints are kept; new ones for each run if not given"
    )
    parser.add_argument("--list", action="store_true", help="print the rows there are")
    parser.add_argument("--peak", choices=("ours", "eager"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        print("\n".join(STANDARD + MORE))
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        if options.peak:
            report_peak(options.rows[0], directory, options.peak)
            return
        description = machine()
        print(", ".join(f"{key} {value}" for key, value in description.items()))
        columns = f"{'seconds':>9} {'x eager':>10} {'x compile':>10} {'limit':>8} {'difference':>11}"
        print(f"{'row':14} {columns} {'GB':>9} {'GB there':>9}")
        results: list[dict[str, Any]] = []
        for name in options.rows:
            result = measure(name, directory, options.repeats, compiled=options.compile)
            if not options.no_memory:
                sides = ("ours",) if name in ALONE else ("ours", "eager")
                result["peak bytes"] = {side: peak(name, directory, side) for side in sides}
            results.append(result)
            print(table_line(result), flush=True)
        report: dict[str, Any] = {"machine": description, "rows": results}
        if options.rows == list(STANDARD):
            report["video file to label"] = first_answer.report(directory, options.repeats)
        if options.json:
            options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
