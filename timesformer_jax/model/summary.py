"""What a model is made of: its parts with their shapes, parameters and multiply-adds, told without allocating it.

Nothing is computed: the model is traced on shapes alone, and the matrix products found in the trace are counted. So the
count is that of the model itself, whatever attention it has, and not of a formula beside it. The paper's "FLOPs" are
multiply-adds as well (0.59 T for three views of the base model); additions, norms and activations are left out, there
as here.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from ..config import TimesformerConfig
from ..errors import ConfigError, VideoError
from .embeddings import check_pixel_values
from .modeling import TimesformerForVideoClassification, TimesformerModel

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: its path among the parameters, with dots.
        times: how often it is there: once, or once in each layer.
        shape: of what it returns for one clip.
        parameters: numbers in it, in all layers together.
        multiply_adds: for one clip, in all layers together.
    """

    name: str
    times: int
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """The parts of a model, in the order in which they compute. `str()` shows them as a table.

    Attributes:
        config: of the model.
        input_shape: of one clip: (1, frames, height, width, channels).
        parts: of the model.
    """

    config: TimesformerConfig
    input_shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """Numbers in all parameters."""
        return sum(part.parameters for part in self.parts)

    @property
    def multiply_adds(self) -> int:
        """For one clip."""
        return sum(part.multiply_adds for part in self.parts)

    def __str__(self) -> str:
        rows = [("part", "times", "shape", "parameters", "multiply-adds")]
        rows += [
            (part.name, str(part.times), str(part.shape), f"{part.parameters:,}", f"{part.multiply_adds:,}")
            for part in self.parts
        ]
        rows.append(("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{name:<{widths[0]}}  {times:>{widths[1]}}  {shape:<{widths[2]}}  {parameters:>{widths[3]}}  "
            f"{multiply_adds:>{widths[4]}}"
            for name, times, shape, parameters, multiply_adds in rows
        ]
        rule = "-" * len(lines[0])
        _, frames, height, width, _ = self.input_shape
        order, embeddings = self.config.attention_order, self.config.position_embedding_type
        title = f"{self.config.attention_type} attention, {frames} frames of {height} x {width} pixels"
        title += f", order {order}" if order != "time_space" else ""
        title += f", position embeddings {embeddings}" if embeddings != "space_time" else ""
        return "\n".join([title, rule, lines[0], rule, *lines[1:-1], rule, lines[-1]])


def summarize(
    config: TimesformerConfig,
    *,
    num_frames: int | None = None,
    size: tuple[int, int] | None = None,
    head: bool = True,
) -> Summary:
    """Counts the parameters and the multiply-adds of a model.

    Args:
        config: of the model.
        num_frames: of the clip; the config's when None.
        size: (height, width) of the frames in pixels; the config's when None.
        head: whether the model has its classifier.

    Raises:
        ConfigError: the model can't take such a clip.
    """
    shape = (1, num_frames or config.num_frames, *(size or config.image_shape), config.num_channels)
    clip: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        jax.eval_shape(functools.partial(check_pixel_values, config=config), clip)
    except VideoError as error:
        raise ConfigError(str(error)) from None
    model = (TimesformerForVideoClassification if head else TimesformerModel)(config)
    params: Any = jax.eval_shape(model.init, jax.random.key(0), clip)["params"]
    # With all attentions asked for, they are made whole, and what blocks are padded with is not counted.
    trace = jax.make_jaxpr(lambda params, clip: model.apply({"params": params}, clip, output_attentions=True))
    multiply_adds: dict[Path, int] = {}
    shapes: dict[Path, tuple[int, ...]] = {}
    for scopes, count, result in _results(trace(params, clip).jaxpr, (), 1):
        path = _module(params, scopes)
        multiply_adds[path] = multiply_adds.get(path, 0) + count
        shapes[path] = result
    sizes = dict(_own_parameters(params, ()))
    parts = [
        Part(
            name=".".join(path) or "outside of all parts",
            times=config.num_hidden_layers if "layers" in path else 1,
            shape=shape,
            parameters=sizes.pop(path, 0),
            multiply_adds=multiply_adds[path],
        )
        for path, shape in shapes.items()
        if path in sizes or multiply_adds[path]
    ]
    assert not sizes, f"parameters of parts that never compute: {sizes}"
    return Summary(config, shape, tuple(parts))


def _results(jaxpr: Jaxpr, outside: Path, times: int) -> Iterator[tuple[Path, int, tuple[int, ...]]]:
    """Of each step: the scopes that it stands in, its multiply-adds, and the shape of its result."""
    for step in jaxpr.eqns:
        scopes = outside + tuple(filter(None, str(step.source_info.name_stack).split("/")))
        shape = tuple(getattr(step.outvars[0].aval, "shape", ())) if step.outvars else ()
        if step.primitive.name == "dot_general":
            (contracted, _), _ = step.params["dimension_numbers"]
            operand: Any = step.invars[0].aval
            terms = math.prod(operand.shape[axis] for axis in contracted)
            yield scopes, times * terms * math.prod(shape), shape
            continue
        repeated = times * step.params.get("length", 1) if step.primitive.name == "scan" else times
        inner = [inside for value in step.params.values() for inside in _inner(value)]
        for inside in inner:
            yield from _results(inside, scopes, repeated)
        if not inner:
            yield scopes, 0, shape


def _module(params: Mapping[str, Any], scopes: Path) -> Path:
    """The innermost module with parameters among scopes, some of which are transformations and methods."""
    path: list[str] = []
    for scope in scopes:
        if isinstance(params.get(scope), Mapping):
            params = params[scope]
            path.append(scope)
    return tuple(path)


def _inner(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    return [inside for item in value for inside in _inner(item)] if isinstance(value, tuple | list) else []


def _own_parameters(params: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, int]]:
    """The numbers that each module holds itself, not in modules of its own."""
    own = sum(math.prod(leaf.shape) for leaf in params.values() if not isinstance(leaf, Mapping))
    if own:
        yield path, own
    for name, child in params.items():
        if isinstance(child, Mapping):
            yield from _own_parameters(child, (*path, name))
