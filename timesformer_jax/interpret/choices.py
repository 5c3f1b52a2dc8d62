"""What can be asked of a clip: the methods of interpretation, and which layer, head, patch and class they are for."""

import dataclasses
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

Method = Literal["attention", "temporal", "rollout", "relevance", "embeddings"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclasses.dataclass(frozen=True)
class Choices:
    """What to look at.

    Attributes:
        layer: counted from 0; None is the mean over all.
        head: counted from 0; None is the mean over all.
        patch: row and column, counted from 0 at the top left; None is the middle.
        target: the index of the class to explain; None is the likeliest.
    """

    layer: int | None = None
    head: int | None = None
    patch: tuple[int, int] | None = None
    target: int | None = None

    @property
    def words(self) -> str:
        """Which layer and head, for a title."""
        if self.layer is None and self.head is None:
            return "mean of all layers and heads"
        layer = "mean of all layers" if self.layer is None else f"layer {self.layer}"
        return f"{layer}, {'mean of all heads' if self.head is None else f'head {self.head}'}"

    def reduce(self, maps: Float[np.ndarray, "layers heads *rest"]) -> Float[np.ndarray, "*rest"]:
        """One layer and head, or the mean."""
        of_layer = maps.mean(axis=0) if self.layer is None else maps[self.layer]
        return of_layer.mean(axis=0) if self.head is None else of_layer[self.head]
