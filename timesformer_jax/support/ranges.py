"""The ranges of settings: they are checked when settings are made, before anything else is."""

import dataclasses
import math
import struct
from typing import Any

from ..errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a setting may be.

    Attributes:
        lowest: the lowest of them, or their bound.
        highest: the highest of them, or their bound; none where it is infinite.
        above: whether `lowest` itself is left out.
        below: whether `highest` itself is left out.
        whole: whether they are whole numbers.
    """

    lowest: float
    highest: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.whole:
            return isinstance(value, int) and self.lowest <= value <= self.highest
        # As the step computes with it: 1 - 1e-9 is 1, and a decay of 1 divides by 0.
        number = _as_float32(value)
        over = number > self.lowest if self.above else number >= self.lowest
        under = number < self.highest if self.below else number <= self.highest
        return over and under and math.isfinite(number)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.highest == math.inf:
            return f"{kind} above {self.lowest:,}" if self.above else f"{kind}, {self.lowest:,} or more"
        upper = f"below {self.highest:,}" if self.below else f"up to {self.highest:,}"
        return f"{kind} {'above' if self.above else 'from'} {self.lowest:,} {upper}"


COUNT = Range(1, whole=True)
NUMBER = Range(0, whole=True)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
DECAY = Range(0, 1, below=True)


def require_in_range(settings: Any, prefix: str = "", /, **ranges: Range) -> None:
    """Checks the numbers among settings; a None that stands for a default passes.

    Args:
        settings: a dataclass.
        prefix: what its fields' names begin with in messages.
        **ranges: of each field that holds a number, or several.

    Raises:
        ConfigError: a number is out of its range.
    """
    optional = {field.name for field in dataclasses.fields(settings) if field.default is None}
    for name, allowed in ranges.items():
        value = getattr(settings, name)
        if value is None and name in optional:
            continue
        for number in value if isinstance(value, tuple | list) else (value,):
            if number not in allowed:
                raise ConfigError(f"{prefix}{name} is {value!r}: it must be {allowed}.")


def _as_float32(value: float) -> float:
    """The nearest number in float32, without its subnormal ones; infinite where there is none."""
    try:
        number = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.inf
    return 0.0 if abs(number) < 2.0**-126 else number
