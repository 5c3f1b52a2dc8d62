"""Compares what the processes of a job were started with, so that none computes other numbers than the rest."""

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import ConfigError, TrainingError
from . import distributed

PACKAGES = ("timesformer_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "av", "numpy")
"""The packages that a result depends on."""

_MOST_DIFFERENCES = 8
_LONGEST_VALUE, _LONGEST_ENTRY = 60, 200
_BLOCK = 1000
"""Entries of a list that are compared by one digest."""

_comparisons = itertools.count()


def require_agreement(
    what: str,
    facts: Callable[[], Mapping[str, str]],
    *,
    first_alone: bool = False,
    entries: Callable[[str], Sequence[str]] | None = None,
) -> None:
    """Checks that all processes of the job have the same facts, which all of them have to bring.

    They are compared by the first process. They travel through JAX's coordinator, not through the devices, so nothing
    hangs where shapes differ.

    Args:
        what: what the facts are of, for the message of a process that does not come.
        facts: gives short texts by name, where there are several processes. What stands after a line break in one is
            told, but not compared.
        first_alone: whether the first difference alone is told, because others follow from it.
        entries: gives the entries of the list that a fact, whose name it is given, is the digest of; none for other
            facts. Of lists that differ the first entry that does is told.

    Raises:
        ConfigError: they differ; in all processes.
        TrainingError: a process does not bring its facts within `SLOWEST_SECONDS`.
    """
    import jax

    count, index = jax.process_count(), jax.process_index()
    if count == 1:
        return
    client, place = distributed.coordinator(), f"timesformer/facts/{next(_comparisons)}"
    client.key_value_set(f"{place}/{index}", json.dumps(dict(facts())))
    distributed.wait_for_all("comparing what the processes were started with")
    if index == 0:
        everywhere = [json.loads(client.key_value_try_get(f"{place}/{i}")) for i in range(count)]
        found = differences(everywhere)
        client.key_value_set(f"{place}/verdict", json.dumps(list(found.items())[: 1 if first_alone else None]))
    try:
        found = dict(json.loads(client.blocking_key_value_get(f"{place}/verdict", 60_000)))
    except jax.errors.JaxRuntimeError as error:
        raise TrainingError(f"comparing {what}: the first process of the job gives no answer.") from error
    if found:
        texts = [(entries and _first_unlike_entry(name, entries(name))) or text for name, text in found.items()]
        shown, more = texts[:_MOST_DIFFERENCES], len(texts) - _MOST_DIFFERENCES
        rest = f"; and {more} more" if more > 0 else ""
        raise ConfigError(
            f"the processes of the job were not started alike: {'; '.join(shown)}{rest}. Start all of them with the "
            "same command, data, code and packages."
        )


def differences(facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What differs between processes: a text by the name of each such fact, with its values and who has them.

    Args:
        facts: those of each process.
    """
    names = dict.fromkeys(name for own in facts for name in own)
    texts = {name: _difference([own.get(name, "nothing") for own in facts], _LONGEST_VALUE) for name in names}
    return {name: f"{name} is {text}" for name, text in texts.items() if text}


def _difference(values: Sequence[str], longest: int) -> str:
    """The values with the processes that have them; nothing where there is one alone."""
    holders: dict[str, list[int]] = {}
    told: dict[str, str] = {}
    for process, text in enumerate(values):
        value, _, note = text.partition("\n")
        holders.setdefault(value, []).append(process)
        told.setdefault(value, _cut(value, longest) + (f" ({note})" if note else ""))
    if len(holders) == 1:
        return ""
    return _listed([f"{told[value]} in {_processes(who)}" for value, who in holders.items()])


def _first_unlike_entry(name: str, own: Sequence[str]) -> str:
    """The first entry of a list that differs between processes, which all ask for it; nothing if none does.

    They exchange digests of blocks, and then the entries of the first block that differs: little, also of a long list.
    """
    blocks = [own[start : start + _BLOCK] for start in range(0, len(own), _BLOCK)]
    unlike = _first_unlike(_everyones([digest(hashlib.sha256("\n".join(block).encode())) for block in blocks]))
    if unlike is None:
        return ""
    entries = _everyones(own[unlike * _BLOCK : (unlike + 1) * _BLOCK])
    at = _first_unlike(entries) or 0
    values = [theirs[at] if at < len(theirs) else "nothing" for theirs in entries]
    told = _difference(values, _LONGEST_ENTRY)
    return f"{name}: the first that differs, number {unlike * _BLOCK + at + 1}, is {told}"


def _first_unlike(lists: Sequence[Sequence[str]]) -> int | None:
    together = enumerate(itertools.zip_longest(*lists))
    return next((number for number, values in together if len(set(values)) > 1), None)


def _everyones(own: Sequence[str]) -> list[list[str]]:
    """The lists that all processes bring here."""
    import jax

    client, place = distributed.coordinator(), f"timesformer/lists/{next(_comparisons)}"
    client.key_value_set(f"{place}/{jax.process_index()}", json.dumps(list(own)))
    distributed.wait_for_all("comparing lists")
    return [json.loads(client.key_value_try_get(f"{place}/{i}")) for i in range(jax.process_count())]


def _processes(numbers: Sequence[int]) -> str:
    return f"process {numbers[0]}" if len(numbers) == 1 else f"processes {_listed([str(n) for n in numbers])}"


def _listed(texts: Sequence[str]) -> str:
    """Texts with commas, and the word before the last of them; of many, those at the beginning."""
    if len(texts) > _MOST_DIFFERENCES:
        texts = [*texts[:_MOST_DIFFERENCES], f"{len(texts) - _MOST_DIFFERENCES} more"]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _cut(value: str, longest: int) -> str:
    return value if len(value) <= longest else f"{value[:longest]}..."


def versions() -> dict[str, str]:
    """The versions of Python and of what a result depends on, and a digest of this package's own code."""
    found = {f"the version of {name}": version_of(name) for name in ("python", *PACKAGES)}
    code = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        code.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return {**found, "the code of timesformer_jax": digest(code)}


def version_of(package: str) -> str:
    """The version of a package that is installed, or of Python."""
    try:
        return sys.version.split()[0] if package == "python" else version(package)
    except PackageNotFoundError:
        return "nothing"


def digest(hashed: Any) -> str:
    """The beginning of a hash, which is enough to tell two from each other."""
    return hashed.hexdigest()[:16]


def settings(values: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, str]:
    """Every setting in nested ones as a fact, but for those whose dotted names are listed."""
    return {name: json.dumps(value, default=str) for name, value in flat(values) if name not in without}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested settings under its dotted name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
