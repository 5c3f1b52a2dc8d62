"""The report of an ablation, for people and programs.

report.md                a table for each set of variants, what was measured on what, and the pictures
results.csv              the same numbers, a row for each variant of each set
accuracy-SET.png         accuracy against cost
cost.csv, cost.png       multiply-adds of the base model against frames and crop (the paper's figure 3)
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..interpret.figures import save_figure
from ..support.files import write_atomically
from .ablate import Ablation
from .plots import accuracy_figure, cost_curves, cost_figure
from .results import Results, VariantResult


def write_report(ablation: Ablation, results: Results) -> Path:
    """Writes the report into the ablation's directory, and returns the path of report.md."""
    rows = [VariantResult.of(variant, ablation.seeds, results) for variant in ablation.variants]
    with write_atomically(ablation.output / "results.csv") as temporary, temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in dataclasses.fields(VariantResult)])
        table.writeheader()
        table.writerows(dataclasses.asdict(row) for row in rows)

    curves = cost_curves()
    with write_atomically(ablation.output / "cost.csv") as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["attention_type", "frames", "size", "multiply_adds"])
        table.writerows(dataclasses.astuple(point) for point in curves)
    save_figure(cost_figure(curves), ablation.output / "cost.png")

    parts = ["# Ablation", _introduction(ablation, rows, results)]
    for name in dict.fromkeys(row.set for row in rows):
        table = [row for row in rows if row.set == name]
        parts += [f"## {name}", _table(name, table)]
        parts += [f"{row.variant} failed: {row.error}" for row in table if row.error]
        if any(row.accuracy is not None and row.multiply_adds for row in table):
            save_figure(accuracy_figure(name, table), ablation.output / f"accuracy-{name}.png")
            parts.append(f"![accuracy against cost](accuracy-{name}.png)")
    parts += ["## Cost of the base model", "![multiply-adds against frames and crop](cost.png)"]
    report = ablation.output / "report.md"
    with write_atomically(report) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
    return report


def _introduction(ablation: Ablation, rows: Sequence[VariantResult], results: Results) -> str:
    recipe, motion = ablation.recipe, ablation.motion
    costs = [results.values(row.key, None) for row in rows]
    devices = {str(cost["device"]) for cost in costs if cost is not None}
    if ablation.makes_videos:
        data = (
            f"{motion.train:,} motion videos to train on, {motion.test:,} others to test on, of each seed's own making"
        )
    else:
        data = f"trained on {recipe.data.train}, tested on {recipe.data.validation}"
    if ablation.minutes is None:
        budget = f"{recipe.steps:,} steps" if recipe.steps is not None else f"{recipe.epochs:g} epochs"
    else:
        budget = f"as many steps as {ablation.minutes:g} minutes allow at the measured speed"
    seeds = " ".join(map(str, ablation.seeds)) or "none: nothing was trained"
    lines = [
        f"- Data: {data}.",
        f"- Budget of each training: {budget} of {recipe.batch_size} clips. Seeds: {seeds}.",
        "- Accuracy: the share of test videos whose class came first, mean ± standard deviation over the seeds.",
        f"- Clips a second: the median of calls over three seconds in a process of its own, clips in memory already, "
        f"on {', '.join(sorted(devices)) or 'no device'}; training is the whole step of {recipe.batch_size} clips, "
        f"inference the forward pass of {recipe.batch_size // recipe.accumulation}.",
        "- Memory: of those two programs on one device by the compiler's own analysis: arguments (parameters, "
        "optimizer state, clips), results and temporaries.",
        "- Multiply-adds: of one clip, forward.",
    ]
    if any(row.within_pairs is not None for row in rows):
        lines.append(
            "- Within pairs: of the videos that were given one class of their pair of time-reversed classes, the share "
            "that was given the right one; 50% is chance."
        )
    return "\n".join(lines)


def _table(name: str, rows: Sequence[VariantResult]) -> str:
    pairs = any(row.within_pairs is not None for row in rows)
    steps = len({row.steps for row in rows} - {None}) > 1
    heads = [name, "accuracy", *(["within pairs"] if pairs else []), *(["steps"] if steps else [])]
    heads += ["parameters", "multiply-adds", "training, clips/s", "memory", "inference, clips/s", "memory"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        cells = [row.variant, _share(row.accuracy, row.accuracy_spread)]
        cells += [_share(row.within_pairs, row.within_pairs_spread)] if pairs else []
        cells += [_number(row.steps, "{:,}")] if steps else []
        cells += [_number(row.parameters, "{:,}"), _scaled(row.multiply_adds)]
        cells += [_rate(row.train_clips_per_second), _scaled(row.train_memory, "B")]
        cells += [_rate(row.inference_clips_per_second), _scaled(row.inference_memory, "B")]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _share(value: float | None, spread: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" + (f" ± {spread:.1%}" if spread is not None else "")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _rate(value: float | None) -> str:
    return _number(value, "{:,.0f}" if value is not None and value >= 100 else "{:.3g}")


def _scaled(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value / 1e3:.3g} k{unit}"
