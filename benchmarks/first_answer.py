"""From a video file to its label, whole processes: `timesformer classify` against a script of Transformers.

    python benchmarks/first_answer.py [--repeats 5] [--json FILE]

The script is what Transformers' documentation of TimeSformer shows: decode with PyAV up to the last frame that is
needed, AutoImageProcessor, the model from a local safetensors directory, eager PyTorch. Both get the base model with
random weights, 8 frames, and a 10-second clip, and must name the same class. Each runs once unmeasured, so that files
are in memory and the compiled program in JAX's cache, then they take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timesformer_jax.demo.sample import moving_disc, write_sample
from timesformer_jax.video.writing import write_video

REFERENCE = """
import sys
import av, numpy, torch
from transformers import AutoImageProcessor, TimesformerForVideoClassification

def read_video_pyav(container, indices):
    frames, first, last = [], indices[0], indices[-1]
    for i, frame in enumerate(container.decode(video=0)):
        if i > last:
            break
        if i >= first and i in indices:
            frames.append(frame)
    return numpy.stack([frame.to_ndarray(format="rgb24") for frame in frames])

container = av.open(sys.argv[1])
total = container.streams.video[0].frames
span = 8 * 32
first = max(total - span, 0) / 2
indices = numpy.clip(numpy.linspace(first, first + span - 1, 8), 0, total - 1).astype(int)
processor = AutoImageProcessor.from_pretrained(sys.argv[2])
model = TimesformerForVideoClassification.from_pretrained(sys.argv[2])
inputs = processor(list(read_video_pyav(container, indices)), return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
print(model.config.id2label[logits.argmax(-1).item()])
"""


def measure(directory: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of each run of each program, in turns."""
    write_sample(directory / "sample")
    checkpoint, video = directory / "sample" / "checkpoint", directory / "video.mp4"
    write_video(video, moving_disc(300))
    script = directory / "reference.py"
    script.write_text(REFERENCE)
    timesformer = Path(sys.executable).parent / "timesformer"
    programs = {
        "Transformers": [sys.executable, str(script), str(video), str(checkpoint)],
        "timesformer classify": [str(timesformer), "classify", str(video), "--model", str(checkpoint), "--json"],
    }
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(directory / "cache"), "HF_HUB_OFFLINE": "1"}
    times: dict[str, list[float]] = {name: [] for name in programs}
    labels: dict[str, str] = {}
    for run in range(repeats + 1):
        for name, command in programs.items():
            start = time.perf_counter()
            result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            if run:
                times[name].append(time.perf_counter() - start)
            answer = result.stdout.strip()
            labels[name] = json.loads(answer)["predictions"][0]["label"] if answer.startswith("{") else answer
    if len(set(labels.values())) != 1:
        raise SystemExit(f"the answers differ: {labels}")
    return times


def report(directory: Path, repeats: int) -> dict[str, object]:
    """Measures; prints the medians, and their ratio."""
    times = measure(directory, repeats)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    reference, ours = medians.values()
    ratio = statistics.median(own / theirs for theirs, own in zip(*times.values(), strict=True))
    print(f"video file to label, whole process: {reference:.2f} s with Transformers, {ours:.2f} s here, x {ratio:.2f}")
    return {"seconds": times, "medians": medians, "ratio": ratio}


def main() -> None:
    """Prints the medians, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        results = report(Path(directory), options.repeats)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
