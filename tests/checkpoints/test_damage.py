"""Real checkpoints flipped, cut and shuffled at random: a sentence, or what the safetensors library reads.

About a hundred cases run with every test run, over two thousand with `-m slow`; more than half of them damage headers,
indexes and configs, where most can go wrong.
"""

import json
import shutil
import signal
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytorch import torch
from reference import tiny_reference
from safetensors import safe_open

from timesformer_jax.checkpoints.inspection import inspect_checkpoint
from timesformer_jax.checkpoints.mapping import get_leaf, mapping_table
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.conversion.convert import convert_hf_to_flax
from timesformer_jax.errors import TimesformerError

SECONDS = 30
"""No case may take longer."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sound checkpoints."""
    directory = tmp_path_factory.mktemp("originals")
    reference = tiny_reference(dtype=torch.float32)
    reference.save_pretrained(directory / "safetensors")
    reference.save_pretrained(directory / "sharded", max_shard_size="20KB")
    reference.save_pretrained(directory / "bin", safe_serialization=False)
    convert_hf_to_flax(directory / "safetensors", directory / "converted")
    return directory


# Damage to bytes, at places given as fractions of the part that is damaged, so that a case shrinks well.

places = st.floats(0, 1, exclude_max=True)


def flip(data: bytes, place: float, bit: int) -> bytes:
    i = int(place * len(data))
    return data[:i] + bytes([data[i] ^ (1 << bit)]) + data[i + 1 :] if data else data


def overwrite(data: bytes, place: float, new: bytes) -> bytes:
    i = int(place * len(data))
    return data[:i] + new + data[i + len(new) :]


def insert(data: bytes, place: float, new: bytes) -> bytes:
    i = int(place * len(data))
    return data[:i] + new + data[i:]


def cut(data: bytes, start: float, length: float) -> bytes:
    i, n = int(start * len(data)), int(length * len(data)) + 1
    return data[:i] + data[i + n :]


def truncate(data: bytes, place: float) -> bytes:
    return data[: int(place * len(data))]


def swap(data: bytes, first: float, second: float, length: float) -> bytes:
    """Exchanges two slices."""
    i, j = sorted((int(first * len(data)), int(second * len(data))))
    n = min(int(length * 64) + 1, j - i, len(data) - j)
    return data[:i] + data[j : j + n] + data[i + n : j] + data[i : i + n] + data[j + n :]


byte_damage = st.one_of(
    st.builds(lambda p, b: lambda d: flip(d, p, b), places, st.integers(0, 7)),
    st.builds(lambda p, n: lambda d: overwrite(d, p, n), places, st.binary(min_size=1, max_size=8)),
    st.builds(
        lambda p, n: lambda d: overwrite(d, p, n), places, st.sampled_from([b"9", b"0", b"-", b'"', b"{", b"]", b","])
    ),
    st.builds(lambda p, n: lambda d: insert(d, p, n), places, st.binary(min_size=1, max_size=8)),
    st.builds(lambda p, n: lambda d: insert(d, p, n), places, st.sampled_from([b"1", b"99", b"e9", b"null", b"[["])),
    st.builds(lambda s, n: lambda d: cut(d, s, n), places, st.floats(0, 0.1)),
    st.builds(lambda p: lambda d: truncate(d, p), places),
    st.builds(lambda i, j, n: lambda d: swap(d, i, j, n), places, places, places),
)

# Damage to JSON that stays JSON, which gets further into the code.

strange_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 50),
    st.sampled_from([2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 1e308, float("inf"), float("nan"), 0.5, -0.0]),
    st.text(max_size=6),
    st.sampled_from(["../x", "/etc/passwd", "model-00001-of-00005.safetensors", "config.json", "F16", "I64", "BF16"]),
    st.sampled_from(["space_only", "joint_space_time", "relu", "vit", "regression"]),
    st.lists(st.integers(-1, 50), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def change_json(data: bytes, place: float, action: str, value: Any, deep: bool) -> bytes:
    """Replaces, removes, renames or exchanges a member of a JSON object or of one in it."""
    tree = json.loads(data)
    nodes = [tree]
    for node in nodes:
        nodes += [
            child for child in (node.values() if isinstance(node, dict) else node) if isinstance(child, dict | list)
        ]
    nodes = [node for node in (nodes[1:] if deep else nodes[:1]) if node] or [tree]
    node = nodes[int(place * len(nodes))]
    if not node:
        return data
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = keys[int((place * 7919) % 1 * len(keys))]
    other = keys[int((place * 104729) % 1 * len(keys))]
    if action == "replace":
        node[key] = value
    elif action == "swap":
        node[key], node[other] = node[other], node[key]
    elif action == "copy":
        node[key] = node[other]
    elif isinstance(node, dict) and action == "rename":
        node[str(value)] = node.pop(key)
    else:
        del node[key]
    return json.dumps(tree).encode()


json_damage = st.builds(
    lambda *options: lambda data: change_json(data, *options),
    places,
    st.sampled_from(["replace", "replace", "swap", "copy", "rename", "remove"]),
    strange_values,
    st.booleans(),
)
Damage = Callable[[bytes], bytes]


def try_damage(data: bytes, damages: list[Damage]) -> bytes:
    for damage in damages:
        try:
            data = damage(data)
        except (ValueError, RecursionError, UnicodeError, TypeError):  # no JSON any more, or nothing left
            continue
    return data


def to_file(file: Path, damages: list[Damage]) -> None:
    file.write_bytes(try_damage(file.read_bytes(), damages))


def to_header(file: Path, damages: list[Damage], honest: bool) -> None:
    """Damages the header of a safetensors file, its length included; `honest`: then the length is put right."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    if honest:
        header = try_damage(data[8 : 8 + length], damages)
        header += b" " * (-len(header) % 8)
        file.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    else:
        file.write_bytes(try_damage(data[: 8 + length], damages) + data[8 + length :])


def to_numbers(file: Path, damages: list[Damage]) -> None:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    file.write_bytes(data[: 8 + length] + try_damage(data[8 + length :], damages))


def give_up(*_: Any) -> None:
    raise AssertionError(f"still not done after {SECONDS} s")


def check(original: Path, damage: Callable[[Path], None], truth: Callable[[Path, str], np.ndarray] | None) -> str:
    """Damages a copy of a checkpoint and loads it: an error of ours, or the truth; and nothing is written.

    Returns:
        Which of the two.
    """
    with tempfile.TemporaryDirectory() as directory:
        source = Path(shutil.copytree(original, Path(directory) / "source"))
        damage(source)
        before = {file: file.stat().st_mtime_ns for file in Path(directory).rglob("*")}
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(SECONDS)
        try:
            checkpoint = load_checkpoint(source)
        except TimesformerError as error:
            outcome, message = "refused", str(error)
        else:
            outcome, message = "loaded", None
            if truth is not None:
                assert_true(checkpoint, lambda name: truth(source, name))
        finally:
            report = inspect_checkpoint(source)
            str(report)
            signal.alarm(0)
        assert message is None or str(source) in message
        assert {file: file.stat().st_mtime_ns for file in Path(directory).rglob("*")} == before
        return outcome


def assert_true(checkpoint: Any, truth: Callable[[str], np.ndarray]) -> None:
    """Every tensor of a loaded checkpoint, back in PyTorch's shape, has the bits that the library reads."""
    for entry in mapping_table(checkpoint.config, head="timesformer" in checkpoint.params):
        leaf = get_leaf(checkpoint.params, entry.path)
        for name, parameter in zip(entry.names, leaf[None] if entry.layers is None else leaf, strict=True):
            expected = truth(name)
            # Layers of several types share the widest.
            assert entry.to_torch(parameter).tobytes() == expected.astype(leaf.dtype, copy=False).tobytes(), name


def read_safetensors(source: Path, name: str) -> np.ndarray:
    """What the safetensors library itself reads, from whichever file has it."""
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, "np") as opened:
            if name in opened.keys():  # noqa: SIM118  (not a dict)
                return opened.get_tensor(name)
    raise KeyError(name)


def damaged_header(originals: Path, damages: list[Damage], honest: bool) -> str:
    return check(
        originals / "safetensors", lambda s: to_header(s / "model.safetensors", damages, honest), read_safetensors
    )


def damaged_config(originals: Path, damages: list[Damage]) -> str:
    return check(originals / "safetensors", lambda source: to_file(source / "config.json", damages), read_safetensors)


def damaged_index(originals: Path, damages: list[Damage]) -> str:
    index = "model.safetensors.index.json"
    return check(originals / "sharded", lambda source: to_file(source / index, damages), read_safetensors)


def damaged_numbers(originals: Path, damages: list[Damage]) -> str:
    return check(originals / "safetensors", lambda s: to_numbers(s / "model.safetensors", damages), read_safetensors)


def shuffled_files(originals: Path, first: int, second: int, damages: list[Damage]) -> str:
    """Two files of a sharded checkpoint in each other's place, one of them damaged."""

    def damage(source: Path) -> None:
        files = sorted(source.iterdir())
        one, other = files[first % len(files)], files[second % len(files)]
        contents = one.read_bytes(), other.read_bytes()
        one.write_bytes(contents[1])
        other.write_bytes(try_damage(contents[0], damages))

    return check(originals / "sharded", damage, None)


def damaged_pickle(originals: Path, damages: list[Damage], head: bool) -> str:
    """Anywhere, or in the first 20 kB, where the pickle itself is."""

    def damage(source: Path) -> None:
        file = source / "pytorch_model.bin"
        data = file.read_bytes()
        size = 20_000 if head else len(data)
        file.write_bytes(try_damage(data[:size], damages) + data[size:])

    return check(originals / "bin", damage, None)


def damaged_converted(originals: Path, damages: list[Damage], which: int, gone: bool) -> str:
    files = sorted(path for path in (originals / "converted").rglob("*") if path.is_file())
    name = files[which % len(files)].relative_to(originals / "converted")

    def damage(source: Path) -> None:
        (source / name).unlink() if gone else to_file(source / name, damages)

    # Numbers lie in d/, where a flip makes other numbers.
    truth = None if "d" in name.parts else lambda _, tensor: read_safetensors(originals / "safetensors", tensor)
    return check(originals / "converted", damage, truth)


byte_damages = st.lists(byte_damage, min_size=1, max_size=4)
json_damages = st.lists(json_damage, min_size=1, max_size=3)
text_damages = byte_damages | json_damages
CASES: dict[str, tuple[Callable[..., str], int, int, dict[str, st.SearchStrategy[Any]]]] = {
    "header": (damaged_header, 30, 1500, {"damages": text_damages, "honest": st.booleans()}),
    "config": (damaged_config, 20, 1200, {"damages": text_damages}),
    "index": (damaged_index, 20, 800, {"damages": text_damages}),
    "numbers": (damaged_numbers, 10, 500, {"damages": byte_damages}),
    "shuffled": (
        shuffled_files,
        8,
        300,
        {"first": st.integers(0, 9), "second": st.integers(0, 9), "damages": st.lists(byte_damage, max_size=1)},
    ),
    "pickle": (damaged_pickle, 12, 700, {"damages": byte_damages, "head": st.booleans()}),
    "converted": (
        damaged_converted,
        4,
        300,
        {"damages": text_damages, "which": st.integers(0, 40), "gone": st.booleans()},
    ),
}
"""What is damaged: how, in how many cases of a fast and of a slow run, and from which choices."""


def run_cases(originals: Path, kind: str, cases: int, *, random: bool) -> Counter[str]:
    run, *_, choices = CASES[kind]
    outcomes: Counter[str] = Counter()
    # A case may be slow the first time, when a library is imported; `check` has its own limit.
    quiet = settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=not random,
        suppress_health_check=list(HealthCheck),
    )
    quiet(given(**choices)(lambda **chosen: outcomes.update([run(originals, **chosen)])))()
    return outcomes


@pytest.mark.parametrize("kind", CASES)
def test_damage(originals: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    run_cases(originals, kind, CASES[kind][1], random=False)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_much_damage(originals: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    outcomes = run_cases(originals, kind, CASES[kind][2], random=True)
    assert "Traceback" not in capfd.readouterr().err  # from threads
    assert sum(outcomes.values()) >= CASES[kind][2]
    assert min(outcomes["loaded"], outcomes["refused"]) > 0  # neither hopeless nor harmless


def test_there_are_as_many_cases_as_promised() -> None:
    fast, slow = ({kind: case[i] for kind, case in CASES.items()} for i in (1, 2))
    assert sum(fast.values()) >= 100
    assert sum(slow.values()) >= 2000
    for cases in (fast, slow):
        assert 2 * sum(cases[kind] for kind in ("header", "config", "index")) >= sum(cases.values())
