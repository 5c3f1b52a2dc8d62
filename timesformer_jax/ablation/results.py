"""What is known of a variant once its runs are done: means over the seeds, and what it costs."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Self

from .ablate import Results
from .variants import SetName, Variant

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
    """A variant of a set, as results.csv has it; None for what is not known.

    Attributes:
        set: the table.
        variant: its name.
        key: what was trained; see `Variant`.
        seeds: how many have a result.
        steps: of each training.
        accuracy: mean over the seeds, of the share of videos whose class came first.
        accuracy_spread: standard deviation over the seeds (of a sample: n - 1).
        within_pairs: mean share of right ones among the videos that were given one class of their pair of reverses.
        within_pairs_spread: as above.
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
        """From what is known of a variant."""
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
