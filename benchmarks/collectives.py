"""The collectives in a compiled program: what a chip hands to others, by kind, bodies of loops times their trips."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_TYPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_TRIPS = re.compile(r'known_trip_count\\?":\{\\?"n\\?":\\?"(\d+)')
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"= [su](?:32|64)\[\]\S* constant\((\d+)\)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
# {{0,1},{2,3}}, [2,4]<=[8] or mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, in which 'axis_1':(2)2 is a part of an axis.
_GROUPS = re.compile(
    r"replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\]|mesh\[([^\]]*)\](?:, device_ids=\(.*?\))? \{([^}]*)\})"
)
_PART = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")
_OPERATION = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction.

    Attributes:
        kind: of KINDS.
        shapes: of the result on a chip; several where they are sent together.
        size: bytes of the result on a chip.
        group: chips that take part together.
        times: how often it runs.
        operation: where it comes from in the model.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    size: int
    group: int
    times: int
    operation: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the largest array."""
        return max(self.shapes, key=math.prod)

    @property
    def sent(self) -> int:
        """Bytes that each chip sends in all, by the usual ring algorithms."""
        others = self.group - 1
        one = {
            "all-gather": self.size * others // self.group,
            "all-reduce": 2 * self.size * others // self.group,
            "all-to-all": self.size * others // self.group,
            "collective-permute": self.size,
            "reduce-scatter": self.size * others,  # the result is a share
        }[self.kind]
        return one * self.times


def collectives(text: str) -> list[Collective]:
    """All collectives of a compiled program (`jax.stages.Compiled.as_text`) between more than one chip."""
    computations: dict[str, list[str]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = match[2]
            computations[current] = []
            entry = current if match[1] else entry
        elif current is not None:
            computations[current].append(line)
    # One that overlaps with several others is written beside each of them, in another computation, always on the same
    # channel. (Those of `shard_map` share a channel, but not the place in the model, or the computation.)
    found: dict[tuple[str, Collective], int] = {}
    for name, times in _times(computations, entry).items():
        here: collections.Counter[tuple[str, Collective]] = collections.Counter()
        for line in computations[name]:
            if (collective := _parse(line, times)) is not None and collective.group > 1:
                channel = _CHANNEL.search(line)
                here[channel[1] if channel else line, collective] += 1
        found |= {key: max(count, found.get(key, 0)) for key, count in here.items()}
    return [collective for (_, collective), count in found.items() for _ in range(count)]


def by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
    """How many run, and the bytes that each chip sends, for each kind."""
    return {
        kind: {
            "count": sum(each.times for each in found if each.kind == kind),
            "bytes": sum(each.sent for each in found if each.kind == kind),
        }
        for kind in KINDS
    }


def _times(computations: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs."""
    times: collections.Counter[str] = collections.Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for line in computations[name]:
            for called in _called(line):
                if called in computations:
                    visit(called, count * _trips(line, computations))

    visit(entry, 1)
    return times


def _called(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for names in _BRANCHES.findall(line):
        for name in names.split(","):
            yield name.strip().lstrip("%")


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """How often an instruction runs what it calls: a loop as often as the compiler, or its own condition, tells."""
    if " while(" not in line:
        return 1
    if match := _TRIPS.search(line):
        return int(match[1])
    name = _CONDITION.search(line)
    condition = "\n".join(computations[name[1]]) if name else ""
    limits = _CONSTANT.findall(condition)
    if len(limits) != 1 or "direction=LT" not in condition:
        raise ValueError(f"a loop whose trips nothing tells: {line.strip()[:200]}")
    return int(limits[0])


def _parse(line: str, times: int) -> Collective | None:
    match = _COLLECTIVE.search(line)
    if match is None:
        return None
    types, kind, asynchronous = match.groups()
    arrays = [(name, tuple(int(n) for n in dims.split(",") if n)) for name, dims in _TYPE.findall(types)]
    if asynchronous and kind != "all-reduce":  # (operands, results, and contexts of four bytes)
        arrays = [array for array in arrays if not (array[0] in ("u32", "s32") and not array[1])]
        arrays = arrays[len(arrays) // 2 :]
    sizes = [math.prod(shape) * _bits(name) // 8 for name, shape in arrays]
    operation = _OPERATION.search(line)
    return Collective(
        kind,
        tuple(shape for _, shape in arrays),
        sum(sizes),
        _group(line, kind),
        times,
        operation[1] if operation else "",
    )


def _group(line: str, kind: str) -> int:
    if kind == "collective-permute":
        return 2
    match = _GROUPS.search(line)
    if match is None:
        raise ValueError(f"a collective without groups: {line.strip()[:200]}")
    listed, size, mesh, axes = match.groups()
    if mesh is not None:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh))
        return math.prod(int(part or sizes[axis]) for axis, part in _PART.findall(axes))
    return int(size) if size else listed.count(",") + 1


def _bits(name: str) -> int:
    if name in _BITS:
        return _BITS[name]
    digits = re.match(r"[a-z]+(\d+)", name)
    if digits is None:
        raise ValueError(f"an unknown type: {name}")
    return int(digits[1])
