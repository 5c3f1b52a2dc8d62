"""On one GPU, against Transformers on the same card, in turns: equality, speed and memory.

    python benchmarks/gpu.py --part 1      # parity, and the tests that are marked `gpu`
    python benchmarks/gpu.py --part 2      # forward passes of the base, HR and L models
    python benchmarks/gpu.py --part 3      # their training steps; attention, plain and by cuDNN

Each part takes less than nine minutes on an H100. It needs JAX with CUDA (`pip install -e '.[cuda]'`), and PyTorch with
Transformers 5 on the same card. Both sides compute in bfloat16 with float32 parameters (PyTorch by autocast), get the
same random weights, and take turns; a figure is the median of its ratios. FLOPs are those of the shapes, so that what a
layer computes again does not count. Without a GPU, `--tiny` runs all of it on a CPU, and measures nothing.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # half of the card is PyTorch's

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from roofline import forward_flops, step_flops

from timesformer_jax import TimesformerConfig, TimesformerForVideoClassification, VideoProcessor
from timesformer_jax.inference.batching import Forward
from timesformer_jax.inference.folding import fold_for_inference
from timesformer_jax.kernels.choice import attention_without_matrix
from timesformer_jax.model.attention import softmax_attention
from timesformer_jax.support.compilation import compiler_options
from timesformer_jax.training.optimizer import make_optimizer
from timesformer_jax.training.recipe import ModelOptions, TrainConfig
from timesformer_jax.training.schedule import learning_rate_schedule
from timesformer_jax.training.state import TrainState
from timesformer_jax.training.step import make_train_step

PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}
"""Dense bfloat16 products a second, by NVIDIA's data sheets, of what is in the name of a card."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, and how many clips of it are computed at once."""

    config: TimesformerConfig
    clips: int
    training_clips: int


CASES = {
    "base": Case(TimesformerConfig.preset("base-k400"), 16, 16),
    "hr": Case(TimesformerConfig.preset("hr-k400"), 4, 4),
    "large": Case(TimesformerConfig.preset("large-k400"), 2, 1),
}
TINY = {
    "tiny": Case(
        TimesformerConfig(
            image_size=32,
            patch_size=16,
            num_frames=4,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=96,
            num_labels=5,
        ),
        2,
        2,
    )
}
ATTENTION_TOKENS = (197, 785, 1569, 8)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_reference(config: TimesformerConfig, directory: Path) -> Any:
    """A model of Transformers with random values in every tensor, which is also saved."""
    torch.manual_seed(0)
    settings = {
        name: value for name, value in config.to_dict().items() if hasattr(transformers.TimesformerConfig(), name)
    }
    model = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(**settings)).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            scale = 1.5 / tensor[0].numel() ** 0.5 if tensor.ndim in (2, 4) and "classifier" not in name else 0.3
            tensor.mul_("norm" in name and "weight" in name).add_(torch.randn_like(tensor) * scale)
    model.save_pretrained(directory)
    return model.to(DEVICE)


def frames_of(config: TimesformerConfig, clips: int) -> np.ndarray:
    """Random uint8 frames."""
    shape = (clips, config.num_frames, *config.image_shape, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def pixels_of(frames: np.ndarray) -> np.ndarray:
    """What both models see: the processor's normalisation, without its resizing."""
    return ((frames / 255 - 0.45) / 0.225).astype(np.float32)


def to_torch(pixels: np.ndarray) -> torch.Tensor:
    """Pixel values on PyTorch's device, channels first."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 1, 4, 2, 3))).to(DEVICE)


def synchronise() -> None:
    """Waits for PyTorch's device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def in_turns(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side, which take turns after one call each to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def share_of_peak(flops: float) -> str:
    """FLOPs a second as a share of the card's peak, where that is known."""
    kind = jax.devices()[0].device_kind
    peak = next((peak for name, peak in PEAKS.items() if name in kind), None)
    return "-" if peak is None else f"{flops / peak:.0%}"


def memory() -> dict[str, float]:
    """The most bytes of either side so far, in GB; nothing on a CPU."""
    statistic = jax.devices()[0].memory_stats() or {}
    there = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    return {"here": statistic.get("peak_bytes_in_use", 0) / 1e9, "there": there / 1e9}


def parity(cases: dict[str, Case]) -> list[dict[str, Any]]:
    """The largest differences of the logits, relative to the largest one of float32."""
    rows: list[dict[str, Any]] = []
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as directory:
            reference = make_reference(case.config, Path(directory))
            pixels = pixels_of(frames_of(case.config, 1))
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            with torch.inference_mode():
                expected = reference(to_torch(pixels)).logits.float().cpu().numpy()
                with torch.autocast(DEVICE, torch.bfloat16):
                    rounded = reference(to_torch(pixels)).logits.float().cpu().numpy()
            row: dict[str, Any] = {"model": name}
            for dtype, precision in (("float32", "highest"), ("bfloat16", None)):
                model, params = TimesformerForVideoClassification.from_pretrained(
                    directory, dtype=dtype, precision=precision
                )
                found = np.asarray(jax.jit(model.apply)({"params": params}, pixels).logits, np.float32)
                row[dtype] = float(np.abs(found - expected).max() / np.abs(expected).max())
            row["bfloat16 there"] = float(np.abs(rounded - expected).max() / np.abs(expected).max())
            # Rounding of float32 through all layers; of bfloat16, as far as PyTorch's own goes.
            assert row["float32"] < 1e-4, row
            assert row["bfloat16"] < max(0.05, 3 * row["bfloat16 there"]), row
            rows.append(row)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu and not slow and not long"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    print(tests.stdout.strip().splitlines()[-1])
    if tests.returncode:
        print(tests.stdout[-5000:])
        raise SystemExit(1)
    return rows


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How many times as fast this package is as each of the others."""
    return {
        name: statistics.median(there / here for there, here in zip(times, seconds["here"], strict=True))
        for name, times in seconds.items()
        if name != "here"
    }


def inference(cases: dict[str, Case], rounds: int) -> list[dict[str, Any]]:
    """Forward passes in bfloat16, from uint8 frames on the device to logits."""
    rows: list[dict[str, Any]] = []
    for name, case in cases.items():
        config = case.config
        with tempfile.TemporaryDirectory() as directory:
            reference = make_reference(config, Path(directory))
            model, params = TimesformerForVideoClassification.from_pretrained(directory, dtype="bfloat16")
        module, folded = fold_for_inference(model, params)
        del params
        forward = Forward(module, {"params": folded})
        pixels = pixels_of(frames_of(config, case.clips))
        placed, there = jax.device_put(jnp.asarray(pixels, jnp.bfloat16)), to_torch(pixels)

        def eager(model: Any = reference, there: torch.Tensor = there) -> None:
            with torch.inference_mode(), torch.autocast(DEVICE, torch.bfloat16):
                model(there)
            synchronise()

        compiled = torch.compile(reference)
        seconds = in_turns(
            {
                "here": lambda forward=forward, placed=placed: np.asarray(forward(placed)),
                "eager": eager,
                "compiled": lambda compiled=compiled, eager=eager: eager(compiled),
            },
            rounds,
        )
        here = statistics.median(seconds["here"])
        flops = forward_flops(config, config.num_frames, config.image_shape[0]) * case.clips
        rows.append(
            {"model": name, "clips": case.clips, "clips a second": case.clips / here, **ratios(seconds)}
            | {"share of the peak": share_of_peak(flops / here), "GB": memory()}
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def training(cases: dict[str, Case], rounds: int) -> list[dict[str, Any]]:
    """Training steps: SGD with Nesterov momentum, products in bfloat16, parameters in float32."""
    rows: list[dict[str, Any]] = []
    for name, case in cases.items():
        config, clips = case.config, case.training_clips
        with tempfile.TemporaryDirectory() as directory:
            reference = make_reference(config, Path(directory)).train()
            model, params = TimesformerForVideoClassification.from_pretrained(directory, dtype="bfloat16")
        recipe = TrainConfig(batch_size=clips, model=ModelOptions(dtype="bfloat16"))
        rate = learning_rate_schedule(recipe.schedule, 0.005, steps_per_epoch=100, total_steps=1500)
        optimizer = make_optimizer(recipe.optimizer, rate, num_layers=config.num_hidden_layers)
        processor = VideoProcessor(size=config.image_shape[0], crop_size=config.image_shape)
        step = jax.jit(
            make_train_step(model.clone(remat="dots"), recipe, optimizer, rate, processor),
            donate_argnums=0,
            compiler_options=compiler_options(),
        )
        frames, labels = frames_of(config, clips), np.arange(clips) % config.num_labels
        state = [TrainState.create(params, optimizer, ema=False)]
        del params
        batch = jax.device_put({"frames": frames, "labels": labels.astype(np.int32)})

        def here(state: list[Any] = state, step: Any = step, batch: Any = batch) -> None:
            state[0], metrics = step(state[0], batch)
            assert np.isfinite(metrics.loss)

        there = torch.optim.SGD(reference.parameters(), lr=0.005, momentum=0.9, nesterov=True, weight_decay=1e-4)
        pixels, targets = to_torch(pixels_of(frames)), torch.from_numpy(labels).to(DEVICE)

        def eager(model: Any = reference, there: Any = there, pixels: Any = pixels, targets: Any = targets) -> None:
            there.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = model(pixels, labels=targets).loss
            loss.backward()
            there.step()
            synchronise()

        compiled = torch.compile(reference)
        sides = {"here": here, "eager": eager, "compiled": lambda compiled=compiled, eager=eager: eager(compiled)}
        seconds = in_turns(sides, rounds)
        median = statistics.median(seconds["here"])
        flops = step_flops(forward_flops(config, config.num_frames, config.image_shape[0]) * clips, recomputed=False)
        rows.append(
            {"model": name, "clips": clips, "clips a second": clips / median, **ratios(seconds)}
            | {"share of the peak": share_of_peak(flops / median), "GB": memory()}
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def attention(tokens_of: tuple[int, ...], rounds: int, *, tiny: bool) -> list[dict[str, Any]]:
    """Attention by itself, forward and backward, in bfloat16: "plain" and cuDNN's, as many tokens in all each time."""
    rows: list[dict[str, Any]] = []
    for tokens in tokens_of:
        groups = (2 if tiny else 16 * 1568) // tokens or 1
        shape = (1, groups, 2 if tiny else 12, tokens, 64)
        query, key, value = (jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(3))

        def differentiated(compute: Callable[..., Any]) -> Callable[..., Any]:
            return jax.jit(
                jax.grad(lambda *qkv: jnp.square(compute(*qkv).astype(jnp.float32)).sum(), argnums=(0, 1, 2))
            )

        plain = differentiated(lambda *qkv: softmax_attention(*qkv, scale=0.125)[0])
        sides = {"here": lambda plain=plain, qkv=(query, key, value): jax.block_until_ready(plain(*qkv))}
        if DEVICE == "cuda":
            cudnn = differentiated(lambda *qkv: attention_without_matrix("cudnn", *qkv, scale=0.125))
            sides["cudnn"] = lambda cudnn=cudnn, qkv=(query, key, value): jax.block_until_ready(cudnn(*qkv))
        seconds = in_turns(sides, rounds)
        rows.append(
            {"tokens": tokens, "groups": groups, "plain, ms": 1e3 * statistics.median(seconds["here"])}
            | {f"plain is so many times as fast as {name}": ratio for name, ratio in ratios(seconds).items()}
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Runs one part, and prints a row of JSON for each of its measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, choices=(1, 2, 3), required=True)
    parser.add_argument("--rounds", type=int, default=10, help="calls of each side")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: to see the script run, on a CPU too")
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    options = parser.parse_args()
    if DEVICE == "cpu" and not options.tiny:
        parser.error("PyTorch sees no GPU; --tiny runs a tiny model on the CPU")
    cases, rounds = TINY if options.tiny else CASES, 2 if options.tiny else options.rounds
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    versions = {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"card": card, **versions}))
    if options.part == 1:
        found: Any = parity(cases)
        print("\n".join(map(json.dumps, found)))
    elif options.part == 2:
        found = inference(cases, rounds)
    else:
        found = {"training": training(cases, rounds)}
        found |= {"attention": attention((8,) if options.tiny else ATTENTION_TOKENS, rounds, tiny=options.tiny)}
    if options.json:
        options.json.write_text(json.dumps({"card": card, **versions, "found": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
