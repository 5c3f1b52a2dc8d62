"""How many devices a mesh has along each of its axes; sharding.py makes the mesh."""

import dataclasses

from ..errors import ConfigError
from .ranges import COUNT, require_in_range


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices along each axis of the mesh.

    Attributes:
        data: clips of a batch; all devices that the other axes leave over when not given.
        fsdp: clips of a batch, and parameters and optimizer state.
        tensor: attention heads and hidden units of the MLP.
        frames: frames of a clip.
    """

    data: int | None = None
    fsdp: int = 1
    tensor: int = 1
    frames: int = 1

    def __post_init__(self):
        require_in_range(self, "mesh.", data=COUNT, fsdp=COUNT, tensor=COUNT, frames=COUNT)

    def shape(self, devices: int) -> tuple[int, int, int, int]:
        """Sizes of the axes for a number of devices.

        Raises:
            ConfigError: the devices don't fill the mesh evenly.
        """
        rest = self.fsdp * self.tensor * self.frames
        asked = f"mesh.fsdp {self.fsdp} x mesh.tensor {self.tensor} x mesh.frames {self.frames}"
        if self.data is None:
            if devices % rest:
                raise ConfigError(f"{asked} = {rest} does not divide the {devices} devices that there are.")
            return devices // rest, self.fsdp, self.tensor, self.frames
        if self.data * rest != devices:
            raise ConfigError(
                f"mesh.data {self.data} x {asked} = {self.data * rest}, but there are {devices} devices; "
                "leave mesh.data out to take what the others leave over."
            )
        return self.data, self.fsdp, self.tensor, self.frames
