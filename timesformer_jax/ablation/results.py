"""The results of an ablation: what each case gave, and what that says of a variant."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ..support.files import read_lines, write_atomically
from .case import Answer
from .variants import SetName, Variant


class Results:
    """The answers so far, by the key of the variant and the seed; the seed of a cost is None."""

    def __init__(self, path: Path) -> None:
        """Reads what earlier processes have found.

        Args:
            path: of results.jsonl.
        """
        self._path = path
        lines = read_lines(path)
        self._found = {(line["variant"], line["seed"]): Answer(line.get("values"), line.get("error")) for line in lines}
        with write_atomically(path) as temporary:  # without a last line that a killed process left unfinished
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def add(self, variant: str, seed: int | None, answer: Answer) -> None:
        """Notes an answer; it takes the place of an earlier one."""
        self._found[variant, seed] = answer
        found = {name: value for name, value in dataclasses.asdict(answer).items() if value is not None}
        with self._path.open("a") as file:
            file.write(json.dumps({"variant": variant, "seed": seed, **found}) + "\n")

    def values(self, variant: str, seed: int | None) -> dict[str, Any] | None:
        """The values of a case; None where it has not been computed or has failed."""
        return self._found.get((variant, seed), Answer()).values

    def error(self, variant: str, seeds: Sequence[int]) -> str | None:
        """Why a value of a variant is missing; None where nothing failed."""
        errors = [self._found.get((variant, seed), Answer()).error for seed in (None, *seeds)]
        return next(filter(None, errors), None)


_COSTS = (
    "parameters",
    "multiply_adds",
    "train_clips_per_second",
    "train_memory",
    "inference_clips_per_second",
    "inference_memory",
)


@dataclasses.dataclass(frozen=True)
class VariantResult:
    """The results of a variant, a row of results.csv; None for what is not known.

    Attributes:
        set: the table.
        variant: its name.
        key: what was trained; see `Variant`.
        seeds: how many have a result.
        steps: of each training.
        accuracy: mean over the seeds, of the share of videos whose class came first.
        accuracy_spread: standard deviation over the seeds (of a sample: n - 1).
        within_pairs: mean share of right ones among the videos that were given one class of their pair of reverses.
        within_pairs_spread: standard deviation of that over the seeds.
        parameters: of the model.
        multiply_adds: of one clip.
        train_clips_per_second: measured.
        train_memory: bytes.
        inference_clips_per_second: measured.
        inference_memory: bytes.
        error: why something is missing.
    """

    set: SetName
    variant: str
    key: str
    seeds: int
    steps: int | None
    accuracy: float | None
    accuracy_spread: float | None
    within_pairs: float | None
    within_pairs_spread: float | None
    parameters: int | None
    multiply_adds: int | None
    train_clips_per_second: float | None
    train_memory: int | None
    inference_clips_per_second: float | None
    inference_memory: int | None
    error: str | None

    @classmethod
    def of(cls, variant: Variant, seeds: Sequence[int], results: Results) -> Self:
        """Gathers what is known of a variant."""
        runs = [values for seed in seeds if (values := results.values(variant.key, seed)) is not None]
        cost: dict[str, Any] = results.values(variant.key, None) or {}
        accuracy = [run["top1"] for run in runs]
        pairs = [run["within_pairs"] for run in runs if "within_pairs" in run]
        return cls(
            set=variant.set,
            variant=variant.name,
            key=variant.key,
            seeds=len(runs),
            steps=runs[0]["steps"] if runs else None,
            accuracy=_mean(accuracy),
            accuracy_spread=_spread(accuracy),
            within_pairs=_mean(pairs),
            within_pairs_spread=_spread(pairs),
            **{name: cost.get(name) for name in _COSTS},
            error=results.error(variant.key, seeds),
        )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
