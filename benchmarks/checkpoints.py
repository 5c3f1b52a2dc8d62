"""Time and memory of loading and converting the base checkpoint, each in a process of its own.

    python benchmarks/checkpoints.py [--runs 5]

Memory is the peak of the process less that of the same imports alone, as a multiple of the file. Time is that of the
whole converting process against one that imports the same and only saves the same arrays with Orbax; the two alternate,
and the median of the ratios counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORTS = """
import sys, jax
import timesformer_jax, timesformer_jax.cli, timesformer_jax.conversion.convert, orbax.checkpoint, huggingface_hub
jax.devices()
"""
LOAD = "model, params = timesformer_jax.TimesformerForVideoClassification.from_pretrained(sys.argv[1])\n"
CONVERT = "timesformer_jax.conversion.convert.convert_hf_to_flax(sys.argv[1], sys.argv[2], overwrite=True)\n"
BACK = "timesformer_jax.conversion.convert.convert_flax_to_hf(sys.argv[1], sys.argv[2], overwrite=True)\n"
ORBAX = """
import numpy as np
from pathlib import Path
from timesformer_jax.checkpoints import save_params
from timesformer_jax.support.files import write_atomically
# The arrays as one stretch of bytes each, read as fast as a file can be.
tree = {path.stem: np.load(path) for path in sorted(Path(sys.argv[1]).glob("*.npy"))}
with write_atomically(Path(sys.argv[2])) as directory:
    directory.mkdir()
    save_params(directory, tree)
"""
# Not getrusage: a child's ru_maxrss begins at what its parent had.
PEAK = """
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def run(program: str, *arguments: Path) -> tuple[float, int]:
    """Wall-clock seconds and peak bytes of a program in a new process."""
    start = time.perf_counter()
    command = [sys.executable, "-c", IMPORTS + program + PEAK, *map(str, arguments)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return time.perf_counter() - start, int(result.stdout.splitlines()[-1])


def make_checkpoints(directory: Path) -> int:
    """Writes the base model in each format, and its arrays as .npy; the size of the safetensors file in bytes."""
    import jax
    import numpy as np
    import torch
    import transformers

    from timesformer_jax import TimesformerForVideoClassification
    from timesformer_jax.conversion.convert import convert_hf_to_flax

    torch.manual_seed(0)
    model = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(num_labels=400))
    model.save_pretrained(directory / "safetensors")
    model.save_pretrained(directory / "shards", max_shard_size="100MB")
    model.save_pretrained(directory / "bin", safe_serialization=False)
    convert_hf_to_flax(directory / "safetensors", directory / "converted")
    _, params = TimesformerForVideoClassification.from_pretrained(directory / "safetensors")
    (directory / "arrays").mkdir()
    for number, leaf in enumerate(jax.tree.leaves(params)):
        np.save(directory / "arrays" / f"{number:03}.npy", np.asarray(leaf))
    return (directory / "safetensors" / "model.safetensors").stat().st_size


def main() -> None:
    """Measures, and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs that are timed")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        size = make_checkpoints(directory)
        imports = {kind: statistics.median(run(kind)[1] for _ in range(3)) for kind in ("", "import torch\n")}

        def memory(program: str, source: str) -> float:
            needed = imports["import torch\n" if source == "bin" else ""]  # a pickle needs torch
            return (run(program, directory / source, directory / "out")[1] - needed) / size

        results = {f"memory, load {kind}": memory(LOAD, kind) for kind in ("safetensors", "shards", "bin", "converted")}
        results |= {f"memory, convert {kind}": memory(CONVERT, kind) for kind in ("safetensors", "bin")}
        results["memory, convert back"] = memory(BACK, "converted")
        ratios = []
        for _ in range(runs):
            seconds = run(CONVERT, directory / "safetensors", directory / "out")[0]
            ratios.append(seconds / run(ORBAX, directory / "arrays", directory / "saved")[0])
        results["time, convert / imports and Orbax alone"] = statistics.median(ratios)
    for name, value in results.items():
        print(f"{name:45} {value:.2f}")
    print(json.dumps({"file_bytes": size, "import_bytes": imports[""], **results}))


if __name__ == "__main__":
    main()
