"""Where a model is inside a file of tensors: below the names of the modules that held or wrapped it in training."""

import re
from collections.abc import Iterable

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Modules of PyTorch that wrap another and compute the same: DataParallel and DistributedDataParallel, torch.compile,
FSDP and activation checkpointing. No model here has parts of these names, so they may stand anywhere in a name."""


def without_wrappers(name: str) -> str:
    """A tensor's name without the parts that are wrappers' alone."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def prefixes_before(names: Iterable[str], mark: str) -> list[str]:
    """What stands before a name among some tensors' names, such as "module.model."; "" where nothing does.

    Args:
        names: the tensors' names.
        mark: the name to look for, in which wrappers may stand.
    """
    prefixes = (_before(name.split("."), mark.split(".")) for name in names)
    return [prefix for prefix in prefixes if prefix is not None]


def _before(parts: list[str], mark: list[str]) -> str | None:
    while mark:
        if not parts or (parts[-1] != mark[-1] and parts[-1] not in WRAPPERS):
            return None
        if parts.pop() == mark[-1]:
            mark.pop()
    return "".join(f"{part}." for part in parts)


def around(prefix: str, module: str | None = None) -> str:
    """The prefix of the module that holds the one with a prefix: "model." for "model.timesformer.".

    Args:
        prefix: the prefix of a module.
        module: what the module must be called; another's prefix is returned as it is. None allows any name.
    """
    parts = prefix.split(".")[:-1]
    while parts and parts[-1] in WRAPPERS:
        parts.pop()
    if not parts or parts[-1] != (module or parts[-1]):
        return prefix
    return "".join(f"{part}." for part in parts[:-1])


def is_average(prefix: str) -> bool:
    """Whether a prefix such as "ema_model." is that of a moving average of a model."""
    return any(re.search(r"(?:^|_)ema(?:_|$)", part) for part in prefix.lower().split("."))
