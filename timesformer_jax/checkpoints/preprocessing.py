"""The preprocessing that a checkpoint was trained with, where it is not in a preprocessor_config.json of its own."""

import dataclasses
from typing import Any, Literal

from ..errors import CheckpointError

ChannelOrder = Literal["rgb", "bgr"]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How frames become pixel values.

    Attributes:
        size: (height, width) of the crop in pixels; the short side of a frame is resized to the smaller.
        mean: subtracted from each channel, after scaling to [0, 1].
        std: each channel is divided by it.
        channel_order: of the frames; None where nothing tells.
        trained_on: the dataset as the checkpoint calls it, for messages.
        checkpoint: what the user called it, for messages.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.45, 0.45, 0.45)
    std: tuple[float, ...] = (0.225, 0.225, 0.225)
    channel_order: ChannelOrder | None = None
    trained_on: str | None = None
    checkpoint: str = "the checkpoint"

    @property
    def unknown_order(self) -> str:
        """One sentence on a channel order that has to be asked for."""
        if self.trained_on is None:
            reason = "the file does not say what it was trained on"
        elif self.trained_on.lower() == "ssv2":
            reason = "it was trained on ssv2, whose frames the original code reads in BGR order, but nothing records it"
        else:
            reason = f"it was trained on {self.trained_on}, and nothing records in which order its frames were read"
        return (
            f"{self.checkpoint}: the channel order of its frames is not known ({reason}); give "
            'channel_order="rgb" or "bgr".'
        )

    def settings(self) -> dict[str, Any]:
        """The contents of a preprocessor_config.json, in the layout of VideoMAEImageProcessor.

        Raises:
            CheckpointError: the channel order is not known.
        """
        if self.channel_order is None:
            raise CheckpointError(self.unknown_order)
        height, width = self.size
        settings: dict[str, Any] = {
            "image_processor_type": "VideoMAEImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": min(height, width)},
            "resample": 2,
            "do_center_crop": True,
            "crop_size": {"height": height, "width": width},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        return settings if self.channel_order == "rgb" else settings | {"channel_order": self.channel_order}
