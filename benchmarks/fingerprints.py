"""Seconds until two processes with a list of 100,000 videos have taken their first step, against another checkout.

    python benchmarks/fingerprints.py OTHER [--runs 5]

OTHER is a clone of the commit to compare with; its processes and ours take turns. Where a checkout compares what its
processes were started with, the seconds that this takes (the slower process's, without waiting for the other) are
printed, too.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VIDEOS = 100_000

PROGRAM = """
import sys, time
from timesformer_jax.cli import main
spent = [0.0]
try:
    from timesformer_jax.support import agreement
except ImportError:
    pass
else:
    import timesformer_jax.data.agreement as data
    import timesformer_jax.training.job as job
    import timesformer_jax.training.loop as loop
    real = agreement.require_agreement
    def timed(what, facts, **options):
        def own():
            start = time.perf_counter()
            found = facts()
            spent[0] += time.perf_counter() - start
            return found
        return real(what, own, **options)
    for module in (data, job, loop):
        module.require_agreement = timed
code = main(sys.argv[1:])
print("compared", spent[0], flush=True)
sys.exit(code)
"""


def make_list(folder: Path) -> Path:
    """A list of as many names of one tiny video."""
    import av
    import numpy as np

    video = folder / "video.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (folder / "videos").mkdir()
    lines: list[str] = []
    original = str(video)
    for number in range(VIDEOS):
        name = f"videos/a rather long name of a video {number:06}.mp4"
        if number % 10_000 == 0:  # a file has no more than 65,000 links
            original = shutil.copy(video, folder / f"{number}.mp4")
        os.link(original, folder / name)
        lines.append(f"{name},{number % 400}\n")
    (folder / "train.csv").write_text("".join(lines))
    return folder / "train.csv"


def run(tree: Path, videos: Path, output: Path, cache: Path) -> tuple[float, float]:
    """Seconds from the start of two processes to their end after a step, and those of the comparison."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", PROGRAM, "--compilation-cache", str(cache), "train", "base-k400"]
    command += ["--output", str(output), "--data.train", str(videos), "--data.workers", "0", "--steps", "1"]
    command += ["--batch-size", "2", "--model.num-hidden-layers", "2", "--model.image-size", "32"]
    command += ["--model.checkpoint", "None", "--data.augmentation.short-side", "32", "40"]
    command += ["--processes.coordinator", address, "--processes.count", "2", "--processes.index"]
    environment = os.environ | {"PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    both = [
        subprocess.Popen(
            [*command, str(i)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tree
        )
        for i in range(2)
    ]
    said = [process.communicate() for process in both]
    seconds = time.perf_counter() - start
    if any(process.returncode for process in both):
        raise RuntimeError("".join(text for texts in said for text in texts))
    return seconds, max(float(out.split("compared")[1].split()[0]) for out, _ in said)


def main() -> None:
    """Measures, and prints a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a clone of the commit to compare with")
    parser.add_argument("--runs", type=int, default=5, help="runs of each")
    options = parser.parse_args()
    trees = {"ours": Path(__file__).parents[1], "other": options.other.absolute()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = make_list(folder)
        for number in range(options.runs + 1):
            for which, tree in trees.items():
                measured = run(tree, videos, folder / f"{which} {number}", folder / which)
                if number:  # the first fills the cache of compiled programs
                    found[which].append(measured)
                    print(which, *(f"{seconds:.2f}" for seconds in measured), flush=True)
    medians = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in found.items()}
    compared = statistics.median(seconds for _, seconds in found["ours"])
    print(json.dumps({"seconds": medians, "difference": medians["ours"] - medians["other"], "compared": compared}))


if __name__ == "__main__":
    main()
