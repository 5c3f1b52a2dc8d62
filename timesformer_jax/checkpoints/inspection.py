"""Says what a checkpoint is, and what would fail if it were loaded, from its headers alone."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ..config import TimesformerConfig
from ..errors import CheckpointError, TimesformerError
from .adapter_merging import merged_adapters
from .adapters import find_adapter
from .formats import open_files, recognise
from .hub import HubOptions
from .orbax_directory import PARAMS
from .signatures import kind_of_file
from .source import Source, locate
from .stored_model import StoredModel
from .tensors import Shapes, shard_names


@dataclasses.dataclass(frozen=True)
class Report:
    """A description of a checkpoint; `str()` gives all of it.

    Attributes:
        path: the file or directory.
        kind: what it is, in words.
        num_bytes: on the disk, all shards together.
        config: the config of the model; None where it can't be told. For a ViT a picture is a frame.
        tensors: the shape and type of each tensor, by the names in the file.
        facts: further facts, each under a short name.
        problems: what loading would fail on, one sentence or list each; empty for a sound checkpoint.
    """

    path: Path
    kind: str
    num_bytes: int
    config: TimesformerConfig | None = None
    tensors: Shapes = dataclasses.field(default_factory=dict, repr=False)
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def num_parameters(self) -> int:
        """How many numbers all tensors hold."""
        return sum(math.prod(shape) for shape, _ in self.tensors.values())

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types of the tensors, each once."""
        return tuple(sorted({dtype for _, dtype in self.tensors.values()}))

    def __str__(self) -> str:
        facts = {"size": _in_units(self.num_bytes), **self.facts}
        if self.tensors:
            facts["parameters"] = f"{self.num_parameters:,} in {len(self.tensors)} tensors, {', '.join(self.dtypes)}"
        width = max(map(len, facts))
        lines = [f"{self.path}: {self.kind}", *(f"  {name:<{width}}  {fact}" for name, fact in facts.items())]
        if self.tensors:
            lines += ["tensors", *_indented(_tree_lines(_tree(self.tensors)))]
        if self.problems:
            lines += [
                "loading would fail",
                *_indented([_printable(line) for text in self.problems for line in text.splitlines()]),
            ]
        return "\n".join(lines)


def inspect_checkpoint(
    source: str | PathLike[str] | Source,
    *,
    hub: HubOptions | None = None,
    base: str | PathLike[str] | None = None,
    **known: Any,
) -> Report:
    """Says what a checkpoint is, without loading its weights.

    Args:
        source: whatever `load_checkpoint` takes, and any other file or directory.
        hub: how to reach the Hub, whose files are downloaded first.
        base: the checkpoint that an adapter is merged into, as for `load_checkpoint`.
        **known: config fields that the file does not tell, as for `load_checkpoint`.

    Raises:
        CheckpointError: there is nothing of this name.
    """
    if not isinstance(source, Source):
        path = Path(source).expanduser()
        try:
            source = locate(source, hub, base)
        except CheckpointError as error:
            if not path.exists():
                raise
            kind = "directory without a checkpoint" if find_adapter(path) is None else "PEFT adapter"
            return Report(path, kind, 0, problems=(str(error),))
    path, num_bytes = source.weights, _size(source.weights)
    try:
        files = open_files(source)
    except CheckpointError as error:
        return Report(path, kind_of_file(path), num_bytes, problems=(str(error),))
    try:
        stored = recognise(source, files, known)
    except TimesformerError as error:
        kind = "tensors of a model that can't be loaded"
        return Report(path, kind, num_bytes, None, files.shapes, files.facts, (str(error),))
    problems: tuple[str, ...] = ()
    try:
        stored.require_complete()
    except CheckpointError as error:
        problems = (str(error),)
    facts = _architecture(stored.config, has_head=stored.has_head)
    if stored.is_vit:
        facts = {name: fact for name, fact in facts.items() if name not in ("attention", "frames")}
    facts |= {**files.facts, "preprocessing": _preprocessing(source, stored)}
    merged = [f"{record['adapter']} into {record['base']}" for record in merged_adapters(stored.config)]
    facts |= {"merged": ", ".join(merged)} if merged else {}
    return Report(path, stored.format, num_bytes, stored.config, files.shapes, facts, problems)


def _size(path: Path) -> int:
    files = [path]
    if path.is_dir():
        files = [*(path / PARAMS if (path / PARAMS).is_dir() else path).rglob("*")]
    elif path.name.endswith(".index.json"):
        with contextlib.suppress(CheckpointError):
            files += [path.parent / shard for shard in shard_names(path)]
    return sum(file.stat().st_size for file in files if file.is_file())


def _architecture(config: TimesformerConfig, *, has_head: bool) -> dict[str, str]:
    (height, width), (patch_height, patch_width), (rows, columns) = config.image_shape, config.patch_shape, config.grid
    classes = "none (the bare encoder)"
    if has_head:
        names = [config.id2label[i] for i in range(min(3, config.num_labels))]
        named = "names not known" if names[:1] == ["LABEL_0"] else f"{', '.join(names)}, ..."
        classes = f"{config.num_labels} ({named})"
    match config.sampling_rate:
        case None:
            how = "sampling not known"
        case "segments":
            how = "one from each equal part of a video"
        case rate:
            how = f"every {rate:g} frames of a video of 30 a second"
    return {
        "attention": _attention(config),
        "frames": f"{config.num_frames} ({how})",
        "pixels": f"{height} x {width}, {rows} x {columns} patches of {patch_height} x {patch_width}",
        "layers": f"{config.num_hidden_layers} of width {config.hidden_size}, {config.num_attention_heads} heads of "
        f"{config.head_dim}, MLP of width {config.intermediate_size}",
        "classes": classes,
    }


def _attention(config: TimesformerConfig) -> str:
    facts = [config.attention_type]
    if config.attention_order != "time_space":
        facts.append(f"order {config.attention_order}")
    if config.position_embedding_type != "space_time":
        facts.append(f"position embeddings {config.position_embedding_type}")
    return ", ".join(facts)


def _preprocessing(source: Source, stored: StoredModel) -> str:
    if stored.processor is None:
        return "not known" if source.processor_file is None else f"in {source.processor_file.name}"
    settings = stored.processor.to_dict()
    mean, std = (", ".join(map(str, settings[name])) for name in ("image_mean", "image_std"))
    order = "rgb frames" if stored.unknown_order is None else "channel order not known, to be given"
    return f"mean {mean}, standard deviation {std}; {order}"


# A node of the tree of names: children by name, and under "" the tensor of this very name.
_LEAF = ""


def _tree(tensors: Shapes) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, (shape, dtype) in tensors.items():
        node = root
        for part in re.split(r"[./]", name, maxsplit=_DEEPEST):
            node = node.setdefault(part or "(empty)", {})
        node[_LEAF] = f"{shape} {dtype}"
    return root


_DEEPEST = 20
"""Names of more parts than this are no model's."""


def _tree_lines(tree: dict[str, Any]) -> list[str]:
    rows = _rows(tree, "")
    width = max(len(label) for label, _ in rows)
    return [f"{label:<{width}}  {detail}".rstrip() for label, detail in rows]


def _rows(node: dict[str, Any], indent: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for label, child in _collapsed(node):
        while _LEAF not in child and len(only := _collapsed(child)) == 1:
            label, child = f"{label}.{only[0][0]}", only[0][1]
        rows.append((indent + label, child.get(_LEAF, "")))
        rows += _rows(child, indent + "  ")
    return rows


def _collapsed(node: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The children, with equal layers in a row as one, named by their first and last number."""
    groups: list[tuple[str, str, dict[str, Any]]] = []
    children = [(label, child) for label, child in node.items() if label != _LEAF]
    if all(label.isdecimal() for label, _ in children):
        children.sort(key=lambda item: int(item[0]))
    for label, child in children:
        first, last, twin = groups[-1] if groups else ("", "", {})
        if last.isdecimal() and label.isdecimal() and int(label) == int(last) + 1 and child == twin:
            groups[-1] = (first, label, twin)
        else:
            groups.append((label, label, child))
    return [(_printable(first if first == last else f"{first}..{last}"), child) for first, last, child in groups]


def _printable(name: str) -> str:
    """A name with its control characters escaped, since names in a file must not steer the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _in_units(num_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.4g} {unit} ({num_bytes:,} bytes)"
    return f"{num_bytes} bytes"
