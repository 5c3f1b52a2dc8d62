"""Where arrays live: one mesh of devices, and the rules that map logical axes to it. Nothing else names a mesh axis.

    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    params = jax.device_put(params, shardings_of(params, mesh))
    with use_mesh(mesh):
        outputs = jax.jit(model.apply)({"params": params}, jax.device_put(clips, clip_sharding(mesh, clips.shape)))

XLA's partitioner does the rest. The four axes of the mesh:

    data    clips; gradients are summed over it
    fsdp    clips, and parameters with their optimizer state, which are gathered layer by layer (ZeRO-3)
    tensor  attention heads and the MLP's hidden units (Megatron-LM, arXiv 1909.08053)
    frames  a clip's frames; between the two halves of divided attention it turns to the patches, by an all-to-all.
            Sparse local-global attention gathers its tokens along it; its MLP alone is spread
"""

import contextlib
import dataclasses
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .errors import ConfigError
from .parameters import find_parameter, known_parameters
from .schemes import SPACE, TIME
from .support.mesh_config import MeshConfig

AXES = ("data", "fsdp", "tensor", "frames")
MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """The mesh axes that each logical axis is spread over.

    Attributes:
        batch: clips.
        parallel: tokens that don't see each other in the attention at hand.
        attended: tokens that do.
        hidden: width of the tokens.
        heads: attention heads.
        mlp: hidden units of the MLP.
        embed: width of the tokens, as an axis of parameters.
        labels: classes.
    """

    batch: MeshAxes = ("data", "fsdp")
    parallel: MeshAxes = "frames"
    attended: MeshAxes = None
    hidden: MeshAxes = None
    heads: MeshAxes = "tensor"
    mlp: MeshAxes = "tensor"
    embed: MeshAxes = "fsdp"
    labels: MeshAxes = "tensor"

    def __post_init__(self):
        for axes in (TIME.axes, SPACE.axes, *(each.logical_axes for each in known_parameters().values())):
            used = [axis for name in axes if name for axis in _names(getattr(self, name))]
            if unknown := set(used) - set(AXES):
                raise ConfigError(f"the mesh has no axis {', '.join(sorted(unknown))}; it has {', '.join(AXES)}.")
            if len(used) != len(set(used)):
                raise ConfigError(f"the axes {axes} of one array would share a mesh axis: {used}.")

    def pairs(self) -> tuple[tuple[str, MeshAxes], ...]:
        """As `flax.linen.logical_axis_rules` takes them."""
        return tuple((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))

    def spec(self, axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
        """The mesh axes of an array with these logical axes; a dimension that they don't divide stays whole."""
        entries = [getattr(self, name) if name else None for name in axes]
        sizes = [math.prod(mesh.shape[axis] for axis in _names(entry)) for entry in entries]
        return PartitionSpec(
            *(e if length % size == 0 else None for e, size, length in zip(entries, sizes, shape, strict=True))
        )


def make_mesh(config: MeshConfig | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices (or those given), neighbours on the interconnect beside each other.

    Raises:
        ConfigError: the devices don't fill it.
    """
    devices = jax.devices() if devices is None else devices
    shape = (config or MeshConfig()).shape(len(devices))
    # Auto: the partitioner fills in what the constraints leave open.
    types = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    except NotImplementedError:  # no whole axes of the interconnect make these: 64 x 4 on 16 x 16 chips
        placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(placed, AXES, axis_types=types)


@contextlib.contextmanager
def use_mesh(mesh: Mesh, rules: ShardingRules | None = None) -> Generator[None]:
    """Lets the logical axes that the model names take effect on `mesh`, for what is traced inside."""
    with jax.set_mesh(mesh), nn.logical_axis_rules((rules or ShardingRules()).pairs()):
        yield


def axes_in_use(logical: str) -> tuple[str, ...]:
    """The axes of the mesh of `use_mesh` that a logical axis is spread over; none where they have a single device."""
    axes: Any = dict(nn.get_logical_axis_rules()).get(logical)
    return tuple(axis for axis in _names(axes) if devices_along((axis,)) > 1)


def on_cpu() -> bool:
    """Whether what is traced now is for a CPU: for the devices of `use_mesh`, or else for those at hand."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (jax.default_backend() if device is None else device.platform) == "cpu"


def devices_along(axes: Sequence[str]) -> int:
    """How many devices of the mesh of `use_mesh` there are along some of its axes."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in axes)


def shardings_of(tree: Any, mesh: Mesh, rules: ShardingRules | None = None) -> Any:
    """Where each array of a tree lives, found by its path.

    Args:
        tree: parameters, or anything that holds such trees, as the state of an optimizer and averages of parameters do.
            Arrays or their shapes (`jax.eval_shape`). Numbers without axes (steps, counts) are on every device.
        mesh: from `make_mesh`.
        rules: which logical axes are spread over which mesh axes.

    Raises:
        ConfigError: an array is no parameter that parameters.py knows.
    """
    chosen = rules or ShardingRules()

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        shape, axes = np.shape(leaf), ()
        if shape:
            names = [jax.tree_util.keystr((key,), simple=True) for key in path]
            axes = find_parameter(names, shape).logical_axes
        if not any(axes):
            return NamedSharding(mesh, PartitionSpec())
        stacked = (None,) * (len(shape) - len(axes))
        return NamedSharding(mesh, chosen.spec((*stacked, *axes), shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def place(tree: Any, mesh: Mesh) -> Any:
    """Parameters that every process has whole, on the devices of all of them.

    `jax.device_put` would send all of them round, to compare them.
    """
    shardings = shardings_of(tree, mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

    return jax.tree.map(put, tree, shardings)


def clip_sharding(mesh: Mesh, shape: Sequence[int], rules: ShardingRules | None = None) -> NamedSharding:
    """Where a batch of clips (b, t, h, w, c) lives, or what belongs to its clips (b, ...) where it has another rank."""
    axes = ("batch", "parallel") if len(shape) == 5 else ("batch",)
    padded = axes + (None,) * (len(shape) - len(axes))
    return NamedSharding(mesh, (rules or ShardingRules()).spec(padded, shape, mesh))


def clips_at_once(mesh: Mesh, rules: ShardingRules | None = None) -> int:
    """How many parts a batch of clips is cut into."""
    return math.prod(mesh.shape[axis] for axis in _names((rules or ShardingRules()).batch))


def batch_share(mesh: Mesh, batch_size: int, rules: ShardingRules | None = None) -> tuple[int, int]:
    """Which part of every batch this process reads, and of how many.

    Processes whose devices hold the same clips (different frames of them, or different heads) read the same part.

    Raises:
        ConfigError: the clips can't be spread evenly.
    """
    # One tuple of slices for each device of this process.
    places: Mapping[Any, Any] = clip_sharding(mesh, (batch_size,), rules).addressable_devices_indices_map((batch_size,))
    rows = sorted({_bounds(index[0], batch_size) for index in places.values()})
    first, last = rows[0][0], rows[-1][1]
    size = last - first
    if sum(stop - start for start, stop in rows) != size or first % size or batch_size % size:
        raise ConfigError(
            f"a batch of {batch_size} clips can't be spread evenly over the processes; change batch_size."
        )
    return first // size, batch_size // size


def global_batch(
    local: Mapping[str, np.ndarray], mesh: Mesh, batch_size: int, rules: ShardingRules | None = None
) -> dict[str, jax.Array]:
    """One global batch from the parts that the processes have read.

    Args:
        local: arrays with this process's part of the clips (`batch_share`) along their first axis.
        mesh: from `make_mesh`.
        batch_size: clips of the global batch.
        rules: which logical axes are spread over which mesh axes.
    """
    index, count = batch_share(mesh, batch_size, rules)
    offset = index * batch_size // count

    def place(values: np.ndarray) -> jax.Array:
        def part(slices: Any) -> np.ndarray:
            start, stop = _bounds(slices[0], batch_size)
            return values[(slice(start - offset, stop - offset), *slices[1:])]

        shape = (batch_size, *values.shape[1:])
        return jax.make_array_from_callback(shape, clip_sharding(mesh, shape, rules), part)

    return {name: place(values) for name, values in local.items()}


def whole(tree: Any, mesh: Mesh) -> Any:
    """Global arrays as numpy's, all of them in every process. All processes have to call it."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    if jax.process_count() > 1:
        tree = jax.jit(lambda arrays: arrays, out_shardings=everywhere)(tree)
    return jax.device_get(tree)


@dataclasses.dataclass(frozen=True)
class BatchPlace:
    """Where the batches of an evaluation live.

    Attributes:
        mesh: from `make_mesh`.
        batch_size: clips (or videos) of a global batch.
    """

    mesh: Mesh
    batch_size: int

    def put(self, local: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's part of a batch to a global batch."""
        return global_batch(local, self.mesh, self.batch_size)

    def whole(self, tree: Any) -> Any:
        """See `whole`."""
        return whole(tree, self.mesh)


def _names(axes: MeshAxes) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else axes or ()


def _bounds(part: slice, length: int) -> tuple[int, int]:
    start, stop, _ = part.indices(length)
    return start, stop
