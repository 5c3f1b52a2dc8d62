"""Broken and hostile checkpoints: each ends in one sentence, runs nothing, waits for nothing and leaves nothing."""

import json
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from pytorch import load_file, save_file, torch
from reference import tiny_reference

from timesformer_jax import TimesformerForVideoClassification
from timesformer_jax.checkpoints import tensors as tensors_module
from timesformer_jax.checkpoints.inspection import inspect_checkpoint
from timesformer_jax.checkpoints.open import load_checkpoint
from timesformer_jax.conversion.convert import convert_hf_to_flax
from timesformer_jax.errors import CheckpointError, TimesformerError
from timesformer_jax.support.files import fill_directory, read_json, write_atomically

LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b\nsize 486\n"
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sound checkpoint in several formats."""
    directory = tmp_path_factory.mktemp("originals")
    reference = tiny_reference(dtype=torch.float32)
    reference.save_pretrained(directory / "safetensors")
    reference.save_pretrained(directory / "sharded", max_shard_size="20KB")
    reference.save_pretrained(directory / "bin", safe_serialization=False)
    reference.save_pretrained(directory / "sharded bin", safe_serialization=False, max_shard_size="20KB")
    convert_hf_to_flax(directory / "safetensors", directory / "converted")
    return directory


@pytest.fixture
def copy(originals: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Gives a copy of one of the originals, to be broken."""

    def copied(kind: str) -> Path:
        return Path(shutil.copytree(originals / kind, tmp_path / "source", symlinks=True))

    return copied


@pytest.fixture(autouse=True)
def no_hang() -> Generator[None]:
    """A test that waits for something, such as a pipe, is ended."""

    def give_up(*_: Any) -> None:
        raise TimeoutError("this test hangs")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)


def assert_refused(source: Path, match: str) -> None:
    """Loading, inspecting and converting all answer with a sentence, and nothing appears anywhere."""
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(TimesformerError, match=match) as caught:
        load_checkpoint(source)
    assert not isinstance(caught.value.__cause__, AssertionError)
    assert str(source.parent) in str(caught.value)
    with pytest.raises(TimesformerError, match=match):
        convert_hf_to_flax(source, source.parent / "converted")
    assert inspect_checkpoint(source).problems
    assert sorted(source.parent.rglob("*")) == before


def with_header(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrites the JSON header of a safetensors file, its length included."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    changed = change(header)
    header = header if changed is None else changed
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


class Evil:
    """A pickle of it runs a command when it is loaded by `pickle` itself."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("wrapper", [None, "model_state", "state_dict", "optimizer_state"])
@pytest.mark.parametrize("layout", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pyth", "shard"])
def test_a_pickle_that_runs_code(copy: Any, tmp_path: Path, layout: str, wrapper: str | None, name: str) -> None:
    source, marker = copy("sharded bin" if name == "shard" else "bin"), tmp_path / "pwned"
    file = next(source.glob("*00001*.bin")) if name == "shard" else source / name
    contents: dict[str, Any] = {"evil": Evil(marker)}
    if wrapper:
        contents = {wrapper: contents, "model": {"classifier.weight": torch.zeros(3)}}
    if layout == "plain pickle":
        file.write_bytes(pickle.dumps(contents))
    else:
        torch.save(contents, file, _use_new_zipfile_serialization=layout == "zip")
    assert_refused(source if name != "model.pyth" else file, "can't be loaded as tensors alone")
    assert not marker.exists()
    with file.open("rb") as opened:  # it would have: the test is able to fail
        torch.load(opened, weights_only=False) if layout != "plain pickle" else pickle.load(opened)
    assert marker.exists()


def test_a_pickle_in_the_clothes_of_safetensors(copy: Any, tmp_path: Path) -> None:
    source = copy("safetensors")
    torch.save({"evil": Evil(tmp_path / "pwned")}, source / "model.safetensors")
    assert_refused(source, "damaged or not a safetensors file")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("contents", "match"),
    [
        ([torch.zeros(3)], "holds no state dict"),
        (torch.zeros(3), "holds no state dict"),
        ({}, "holds no state dict"),
        ({"classifier.weight": 3, "x": "text"}, r"is no plain state dict: classifier\.weight, x hold no \(dense\)"),
        ({3: torch.zeros(3)}, "unknown: 3|no TimeSformer"),
        ({"classifier.weight": torch.zeros(7, 24).to_sparse()}, r"classifier\.weight hold no \(dense\) tensors"),
        (
            {"classifier.weight": torch.zeros(7, 24, dtype=torch.complex64)},
            "wrong type: classifier.weight is complex64",
        ),
    ],
    ids=["list", "tensor", "nothing", "no tensors", "number for a name", "sparse", "complex"],
)
def test_pickles_of_other_things(copy: Any, contents: Any, match: str) -> None:
    source = copy("bin")
    torch.save(contents, source / "pytorch_model.bin")
    assert_refused(source, match)


def test_tensors_that_numpy_can_not_have(copy: Any) -> None:
    source = copy("bin")
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    for kind in (lambda t: t.to_sparse(), lambda t: t.to("meta"), lambda t: t.to(torch.float8_e4m3fn)):
        torch.save(state | {"classifier.weight": kind(state["classifier.weight"])}, source / "pytorch_model.bin")
        assert_refused(source, r"classifier\.weight hold no \(dense\)|wrong type: classifier\.weight is float8")


def test_truncated_safetensors(copy: Any) -> None:
    source = copy("safetensors")
    data = (source / "model.safetensors").read_bytes()
    for length in (1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        (source / "model.safetensors").write_bytes(data[:length])
        assert_refused(source, "damaged or not a safetensors file")
    (source / "model.safetensors").write_bytes(data + b"\0")
    assert_refused(source, "damaged or not a safetensors file")


def change(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(fields)


WEIGHT = "classifier.weight"


@pytest.mark.parametrize(
    ("lie", "match"),
    [
        (change(WEIGHT, data_offsets=[0, 10**9]), "damaged or not a safetensors"),
        (change(WEIGHT, data_offsets=[-4, 668]), "damaged or not a safetensors"),
        (change(WEIGHT, data_offsets=[672, 0]), "damaged or not a safetensors"),
        (change(WEIGHT, data_offsets=[4, 676]), "damaged or not a safetensors"),
        (change(WEIGHT, data_offsets=[2**64 - 1, 2**64]), "damaged or not a safetensors"),
        (change(WEIGHT, shape=[7, 25]), "damaged or not a safetensors"),
        (change(WEIGHT, shape=[7 * 24]), rf"wrong shape: {WEIGHT} is \(168,\), the config asks for \(7, 24\)"),
        (change(WEIGHT, shape=[24, 7]), rf"wrong shape: {WEIGHT} is \(24, 7\)"),
        (change(WEIGHT, shape=[2**62, 2**62]), "damaged or not a safetensors"),
        (change(WEIGHT, shape=[-7, -24]), "damaged or not a safetensors"),
        (change(WEIGHT, shape="wide"), "damaged or not a safetensors"),
        (change(WEIGHT, dtype="I32"), f"wrong type: {WEIGHT} is i32, weights are float16"),
        (change(WEIGHT, dtype="F16"), "damaged or not a safetensors"),
        (change(WEIGHT, dtype="F128"), "damaged or not a safetensors"),
        (change(WEIGHT, dtype=None), "damaged or not a safetensors"),
        (lambda header: header.update({WEIGHT: 3}), "damaged or not a safetensors"),
        (lambda header: header.pop(WEIGHT) and None, "damaged or not a safetensors"),
        (lambda header: [header], "damaged or not a safetensors"),
        (lambda header: b"{" + json.dumps(header).encode(), "damaged or not a safetensors"),
        (lambda header: b"", "damaged or not a safetensors"),
        (lambda header: b"{}", "damaged or not a safetensors"),
        (lambda header: b"[" * 100_000, "damaged or not a safetensors"),
        (lambda header: b"\xff\xfe", "damaged or not a safetensors"),
        (
            lambda header: json.dumps(header).encode()[:-1] + b', "classifier.bias": ' + b"{}" + b"}",
            "damaged or not a safetensors",
        ),
        (
            lambda header: header.update({WEIGHT + "\n\x1b[31m": header.pop(WEIGHT)}),
            f"missing: {WEIGHT}",
        ),
    ],
    ids=range(25),
)
def test_a_header_that_lies(copy: Any, lie: Any, match: str) -> None:
    source = copy("safetensors")
    with_header(source / "model.safetensors", lie)
    assert_refused(source, match)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_length_that_lies(copy: Any, length: int) -> None:
    source = copy("safetensors")
    data = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(struct.pack("<Q", length) + data[8:])
    assert_refused(source, "damaged or not a safetensors file")


def change_index(source: Path, **entries: Any) -> None:
    file = source / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"] |= entries
    file.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/{tmp}/secret.safetensors", "sub/secret.safetensors", "..", "sub\\..\\x", "\0", "", "."],
)
def test_an_index_that_points_outside(copy: Any, originals: Path, tmp_path: Path, shard: str) -> None:
    source = copy("sharded")
    for directory in (tmp_path, source / "sub"):
        directory.mkdir(exist_ok=True)
        shutil.copy(originals / "safetensors" / "model.safetensors", directory / "secret.safetensors")
    change_index(source, secret=shard.replace("{tmp}", str(tmp_path)))
    assert_refused(source, "names the shard")


@pytest.mark.parametrize(
    "target", ["../secret.safetensors", "{tmp}/secret.safetensors", "sub/secret.safetensors", "loop"]
)
def test_an_index_whose_shard_is_a_link_to_elsewhere(copy: Any, originals: Path, tmp_path: Path, target: str) -> None:
    source = copy("sharded")
    for directory in (tmp_path, source / "sub"):
        directory.mkdir(exist_ok=True)
        shutil.copy(originals / "safetensors" / "model.safetensors", directory / "secret.safetensors")
    (source / "loop").symlink_to("link.safetensors")
    (source / "link.safetensors").symlink_to(target.replace("{tmp}", str(tmp_path)))
    change_index(source, secret="link.safetensors")
    assert_refused(source, "names the shard 'link.safetensors', (a link to|which is missing)")


def test_links_as_the_hub_s_cache_makes_them(originals: Path, tmp_path: Path) -> None:
    """snapshots/COMMIT/NAME -> ../../blobs/HASH is how huggingface_hub keeps every file."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123abc", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate((originals / "sharded").iterdir()):
        shutil.copy(file, blobs / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    expected = load_checkpoint(originals / "sharded").params
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(snapshot).params, expected)
    (tmp_path / "linked").symlink_to(snapshot)
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(tmp_path / "linked").params, expected)


@pytest.mark.parametrize("kind", ["sharded", "sharded bin"])
def test_shards_that_are_missing_or_no_files(copy: Any, kind: str) -> None:
    source = copy(kind)
    shard = next(source.glob("*-00002-*"))
    shard.unlink()
    assert_refused(source, f"names the shard '{shard.name}', which is missing from")
    shard.mkdir()
    assert_refused(source, f"names the shard '{shard.name}', which is missing from")
    shard.rmdir()
    os.mkfifo(shard)
    assert_refused(source, f"names the shard '{shard.name}', which is missing from")


def test_tensors_that_are_doubled_or_missing(copy: Any) -> None:
    source = copy("sharded")
    first, second = sorted(source.glob("*.safetensors"))[:2]
    moved = load_file(second)
    doubled = next(iter(load_file(first)))
    save_file(moved | {doubled: torch.zeros(3)}, second)
    assert_refused(source, f"doubled: {doubled} is in {first.name} and in {second.name}")
    lost = moved.popitem()[0]
    save_file(moved, second)
    assert_refused(source, f"missing: {lost}, which the index promises, is in no shard")
    change_index(source, ghost=first.name)
    assert_refused(source, "missing: ghost, which the index promises, is in no shard")


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": null}',
        '{"weight_map": {}}',
    ],
)
def test_an_index_that_is_none(copy: Any, index: str) -> None:
    source = copy("sharded")
    (source / "model.safetensors.index.json").write_text(index)
    assert_refused(source, "not valid JSON|must hold a JSON object|has no weight_map|missing: ")


def test_an_index_of_an_index(copy: Any) -> None:
    source = copy("sharded")
    change_index(source, more="model.safetensors.index.json")
    assert_refused(source, "names the shard")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "shard", "index"])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty|not valid JSON"),
        (b"hello, this is a text\n", "damaged or not a safetensors|can't be loaded as tensors|not valid JSON"),
        (b"<!doctype html><html>Not found</html>", "damaged or not a safetensors|can't be loaded as tensors|not valid"),
        (LFS_POINTER, "is a Git LFS pointer, not the"),
        (b"\0" * 5000, "damaged or not a safetensors|can't be loaded as tensors|not valid JSON"),
        (os.urandom(5000), "damaged or not a safetensors|can't be loaded as tensors|not valid JSON"),
    ],
    ids=["empty", "text", "HTML", "LFS pointer", "zeros", "noise"],
)
def test_files_that_hold_something_else(copy: Any, name: str, content: bytes, match: str) -> None:
    source = copy(
        {"model.safetensors": "safetensors", "pytorch_model.bin": "bin", "config.json": "safetensors"}.get(
            name, "sharded"
        )
    )
    if name == "shard":
        name = next(source.glob("*-00002-*")).name
    if name == "index":
        name = "model.safetensors.index.json"
    (source / name).write_bytes(content)
    assert_refused(source, match)
    if name == "model.safetensors":
        assert_refused(source / name, match)


def test_directories_where_files_should_be(copy: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "holds no checkpoint: none of model.safetensors")
    source = copy("safetensors")
    (source / "model.safetensors").rename(source / "weights")
    (source / "model.safetensors").mkdir()
    assert_refused(source, "holds no checkpoint")
    shutil.rmtree(source / "model.safetensors")
    (source / "weights").rename(source / "model.safetensors")
    (source / "config.json").unlink()
    assert_refused(source, "has no config.json beside it")
    (source / "config.json").mkdir()
    assert_refused(source, "has no config.json beside it")


def test_a_pipe_is_not_waited_for(copy: Any, tmp_path: Path) -> None:
    source = copy("safetensors")
    (source / "model.safetensors").unlink()
    os.mkfifo(source / "model.safetensors")
    assert_refused(source, "holds no checkpoint")
    assert_refused(source / "model.safetensors", "is not a file")
    (source / "model.safetensors").unlink()
    (source / "model.safetensors").symlink_to("/dev/zero")
    assert_refused(source, "holds no checkpoint")
    (source / "config.json").unlink()
    os.mkfifo(source / "config.json")
    with pytest.raises(CheckpointError, match="is not a file"):
        read_json(source / "config.json", CheckpointError)


def test_a_converted_directory_that_is_damaged(copy: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Each file cut or gone: an error, or, where the file is not needed, the same numbers."""
    source = copy("converted")
    expected = load_checkpoint(source).params
    refused: dict[str, str] = {}
    for file in sorted(path for path in (source / "params").rglob("*") if path.is_file()):
        data = file.read_bytes()
        for cut in (None, data[: len(data) // 2]):
            file.unlink(missing_ok=True)
            if cut is not None:
                file.write_bytes(cut)
            try:
                jax.tree.map(np.testing.assert_array_equal, load_checkpoint(source).params, expected)
            except CheckpointError as error:
                refused["/".join(file.relative_to(source / "params").parts[:-1]) or file.name] = str(error)
            inspect_checkpoint(source)
        file.write_bytes(data)
    assert refused.keys() >= {"_METADATA", "manifest.ocdbt", "d", "ocdbt.process_0/d"}
    assert all(str(source) in message and "\n" not in message for message in refused.values())
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(source).params, expected)
    assert "Traceback" not in capfd.readouterr().err  # from threads
    shutil.rmtree(source / "params")
    (source / "params").mkdir()
    with pytest.raises(CheckpointError, match=r"_METADATA can't be read"):
        load_checkpoint(source)


def test_a_converted_directory_with_another_config(copy: Any) -> None:
    source = copy("converted")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"wrong shape: timesformer/encoder/layers/\S+ is \(2, "):
        load_checkpoint(source)
    (source / "config.json").write_text(json.dumps(config | {"attention_type": "space_only"}))
    with pytest.raises(CheckpointError, match="unknown: timesformer/encoder/layers/temporal_dense/bias"):
        load_checkpoint(source)


WRITERS = {
    "save_pretrained": "model.save_pretrained(target, params)",
    "convert": "convert_hf_to_flax(source, target, overwrite=True)",
}
ONCE = """
final, target = target, {scratch!r} + "/once"
{write}
target = final
"""
SCRIPT = """
import sys
sys.path[:0] = {path!r}
from timesformer_jax import TimesformerForVideoClassification
from timesformer_jax.conversion import convert_hf_to_flax
source, target = {source!r}, {target!r}
model, params = TimesformerForVideoClassification.from_pretrained(source)
{before}
try:
    {write}
except {expected} as error:
    print(type(error).__name__, str(error).replace("\\n", " "))
else:
    print("written")
"""


def run_script(source: Path, target: Path, write: str, *, before: str = "", expected: str) -> str:
    script = SCRIPT.format(
        path=[p for p in sys.path if p],
        source=str(source),
        target=str(target),
        before=before,
        write=write,
        expected=expected,
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        cwd="/",
        env=os.environ | {"HOME": "/nonexistent", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("writer", "existing"), [("save_pretrained", True), ("convert", True), ("convert", False)])
def test_a_full_disk_leaves_everything_as_it_was(originals: Path, tmp_path: Path, writer: str, existing: bool) -> None:
    """No file may grow beyond 10 kB: the system's answer to a write is then an error, as it is on a full disk."""
    target = tmp_path / "target"
    if existing:
        shutil.copytree(originals / ("converted" if writer == "convert" else "safetensors"), target)
    before = contents_of(tmp_path)
    limit = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
"""
    printed = run_script(originals / "safetensors", target, WRITERS[writer], before=limit, expected="OSError")
    assert printed.startswith("OSError [Errno "), printed
    assert str(tmp_path) in printed
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize("writer", WRITERS)
def test_no_permission(originals: Path, tmp_path: Path, writer: str) -> None:
    with open_directory() as directory:
        source, target = Path(shutil.copytree(originals / "safetensors", directory / "source")), directory / "target"
        for file in (source, *source.iterdir()):
            file.chmod(0o755)
        (directory / "source" / "secret").mkdir(mode=0o700)
        before = contents_of(directory)
        # Once with all rights, so that nothing is left to import from places that the other user may not enter.
        once = ONCE.format(write=WRITERS[writer], scratch=str(tmp_path))
        printed = run_script(source, target, WRITERS[writer], expected="OSError", before=once + unprivileged(directory))
        assert printed.startswith("PermissionError [Errno 13] Permission denied: "), printed
        assert contents_of(directory) == before


READ_EACH = """
for path in {paths!r}:
    try:
        TimesformerForVideoClassification.from_pretrained(path)
    except ValueError as error:
        print(type(error).__name__, error)
"""


def test_no_permission_to_read(originals: Path) -> None:
    """All in one process, which takes longer to start than to read."""
    with open_directory() as directory:
        kinds = ("config.json", "model.safetensors", ".")
        sources = [
            Path(shutil.copytree(originals / "safetensors", directory / f"source{i}")) for i in range(len(kinds))
        ]
        readable = Path(shutil.copytree(originals / "safetensors", directory / "readable"))
        for source in (*sources, readable):
            for file in (*source.iterdir(), source):
                file.chmod(0o755)
        for source, locked in zip(sources, kinds, strict=True):
            (source / locked).chmod(0o000)
        read = unprivileged(directory) + READ_EACH.format(paths=[str(source) for source in sources])
        *lines, last = run_script(readable, directory, "pass", expected="OSError", before=read).splitlines()
        assert last == "written"
        for line, source in zip(lines, sources, strict=True):
            assert line.startswith(("CheckpointError", "ConfigError")), line
            assert line.endswith("can't be read: Permission denied.")
            assert str(source) in line


def open_directory() -> Any:
    """A directory that other users can enter, unlike pytest's own."""
    temporary = tempfile.TemporaryDirectory()
    path = Path(temporary.name)
    path.chmod(0o755)

    class Opened:
        def __enter__(self) -> Path:
            return path

        def __exit__(self, *_: Any) -> None:
            temporary.cleanup()

    return Opened()


def unprivileged(directory: Path) -> str:
    """What a process does so that permissions bind it: root, whom they don't, becomes "nobody"."""
    if os.geteuid() != 0:
        directory.chmod(0o555)
        return ""
    # What is imported on demand may lie where "nobody" has no access.
    return """
import os, huggingface_hub.serialization, safetensors.numpy, orbax.checkpoint, tensorstore
params = __import__("jax").tree.map(__import__("numpy").asarray, params)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""


def contents_of(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
    }


@pytest.mark.parametrize("writer", WRITERS)
def test_an_interrupt_leaves_everything_as_it_was(originals: Path, tmp_path: Path, writer: str) -> None:
    """SIGINT reaches a process that is in the midst of writing."""
    target, ready = tmp_path / "target", tmp_path / "ready"
    shutil.copytree(originals / "converted", target)
    before = contents_of(target)
    # The first file that is renamed or closed inside the temporary directory stops and says so.
    pause = f"""
import pathlib, signal, time, timesformer_jax.conversion.convert
import timesformer_jax.checkpoints.pretrained
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
def paused(*args, **kwargs):
    pathlib.Path({str(ready)!r}).touch()
    time.sleep(60)
timesformer_jax.config.TimesformerConfig.save_json_file = paused
"""
    script = SCRIPT.format(
        path=[p for p in sys.path if p],
        source=str(originals / "safetensors"),
        target=str(target),
        before=pause,
        write=WRITERS[writer],
        expected="KeyboardInterrupt",
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        while not ready.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    assert printed.strip() == "KeyboardInterrupt"
    ready.unlink()
    assert contents_of(target) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]


def test_write_atomically_replaces_a_directory_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), write_atomically(target) as temporary:  # noqa: PT012
        temporary.mkdir()
        (temporary / "new").write_text("new")
        assert (target / "old").read_text() == "old"
        raise KeyboardInterrupt
    assert contents_of(tmp_path) == {"target": None, "target/old": b"old"}
    with write_atomically(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert contents_of(tmp_path) == {"target": None, "target/new": b"new"}


def test_write_atomically_through_a_link_to_a_directory(tmp_path: Path) -> None:
    (tmp_path / "disk" / "old").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk")
    with write_atomically(tmp_path / "link") as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]
    assert contents_of(tmp_path / "disk") == {"new": b"new"}


def test_write_atomically_puts_the_old_directory_back_when_the_last_step_fails(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "target"):
        pass  # nothing was written to the temporary path
    assert contents_of(tmp_path) == {"target": None, "target/old": b"old"}


def test_fill_directory_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    for name in ("mine", "stale", "both"):
        (tmp_path / name).write_text("old")
    with pytest.raises(KeyboardInterrupt), fill_directory(tmp_path, "stale".__eq__) as temporary:  # noqa: PT012
        (temporary / "both").write_text("new")
        raise KeyboardInterrupt
    assert contents_of(tmp_path) == {"mine": b"old", "stale": b"old", "both": b"old"}
    with fill_directory(tmp_path, lambda name: name in ("stale", "both")) as temporary:
        (temporary / "both").write_text("new")
    assert contents_of(tmp_path) == {"mine": b"old", "both": b"new"}


def test_a_file_that_changes_while_it_is_read(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mapped pickles are opened more than once."""
    source = copy("bin")
    monkeypatch.setattr(tensors_module._MappedState, "most_mapped", 100)
    load_pickle, calls = tensors_module.load_pickle, []

    def changing(path: Path) -> Any:
        calls.append(path)
        return load_pickle(path) if len(calls) == 1 else {"classifier.weight": torch.zeros(1)}

    monkeypatch.setattr(tensors_module, "load_pickle", changing)
    monkeypatch.setattr("timesformer_jax.checkpoints.weights_file.load_pickle", changing)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin can't be loaded as tensors alone"):
        load_checkpoint(source)


@pytest.mark.parametrize("name", ["~no-such-user/x", "a" * 5000, "x\0y", "/proc/self/mem", "/dev/null"])
def test_sources_that_are_no_sources(name: str) -> None:
    with pytest.raises(CheckpointError):
        TimesformerForVideoClassification.from_pretrained(name)


def test_limits_of_this_test_file() -> None:
    """The limit of file sizes above is the child's alone."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
