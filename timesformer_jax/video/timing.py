"""Rules that choose frames by the time at which each is shown, not by its number alone."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64

from .packets import PacketList


@runtime_checkable
class TimedRule(Protocol):
    """A rule, as `read_by_rule` takes it, that goes by the time of each frame where the file tells it."""

    def __call__(self, total: int, fps: float | None) -> Int64[np.ndarray, "..."]:
        """Gives indices as if all frames lasted equally long, unless the times are known."""
        ...

    def timed(self, times: Float[np.ndarray, " frames"]) -> "TimedRule":
        """The same rule for frames that are shown at these times, in seconds after the first."""
        ...


def with_times(rule: Any, packets: PacketList) -> Any:
    """Tells a `TimedRule` the times of a file's frames; gives any other rule back as it is."""
    return rule.timed(packets.seconds[:-1]) if isinstance(rule, TimedRule) else rule
