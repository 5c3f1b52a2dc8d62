"""JSON files, and files and directories that are written whole or not at all."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from ..errors import TimesformerError

_MOST_JSON = 2**26


def read_json(path: str | os.PathLike[str], error: type[TimesformerError]) -> dict[str, Any]:
    """Reads the JSON object in a file.

    Raises:
        error: the file is missing or unreadable, or holds something else; the message names it.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise error(f"{path} is not a file.")
        if Path(path).stat().st_size > _MOST_JSON:
            raise error(f"{path} is too large for a JSON file of settings or names (over {_MOST_JSON >> 20} MiB).")
        text = Path(path).read_text(encoding="utf-8")
        if is_lfs_pointer(text[:64].encode()):
            raise error(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` beside it.")
        # A text that nests thousands deep exhausts the parser's stack: RecursionError.
        values = json.loads(text)
    except TimesformerError:
        raise
    except OSError as problem:
        raise error(f"{path} can't be read: {problem.strerror or problem}.") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{path} is not valid JSON ({problem}).") from None
    if not isinstance(values, dict):
        raise error(f"{path} must hold a JSON object, not a {type(values).__name__}.")
    return values


def without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of JSON, for `json.loads(text, object_pairs_hook=...)`, which else keeps the last of equal keys.

    Raises:
        ValueError: a key stands there twice.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it names {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return values


def is_lfs_pointer(start: bytes) -> bool:
    """Whether a file that starts like this is a pointer of Git LFS, which stands for another file."""
    return start.startswith(b"version https://git-lfs.github.com/spec/")


@contextlib.contextmanager
def write_atomically(path: Path) -> Generator[Path]:
    """Gives a temporary path beside `path` to write a file or directory at; renames it to `path` on success.

    On failure the temporary is removed and `path` is as it was. A directory that is replaced is moved away only
    after the new one is complete.
    """
    if path.is_dir():
        path = path.resolve()  # what a link points to is replaced, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary = workspace / path.name
        yield temporary
        if path.is_dir():
            previous = workspace / f"{path.name}.previous"
            path.rename(previous)
            try:
                temporary.rename(path)
            except OSError:
                previous.rename(path)
                raise
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


@contextlib.contextmanager
def fill_directory(directory: Path, stale: Callable[[str], bool]) -> Generator[Path]:
    """Gives a temporary directory to write files in; moves them into `directory` on success.

    Args:
        directory: made if needed; what else is in it stays.
        stale: whether a file in `directory`, by its name, is removed when the new ones take its place.
    """
    if not directory.exists():
        with write_atomically(directory) as temporary:
            temporary.mkdir()
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix=".unfinished.", dir=directory) as name:
        temporary = Path(name)
        yield temporary
        written = list(temporary.iterdir())
        names = {file.name for file in written}
        for file in written:
            file.replace(directory / file.name)
        for file in directory.iterdir():
            if file.is_file() and stale(file.name) and file.name not in names:
                file.unlink()


def cut_lines(path: Path, step: int) -> None:
    """Removes from a file of JSON lines those of steps after `step`."""
    if not path.exists():
        return
    kept = [line for line in read_lines(path) if line["step"] <= step]
    with write_atomically(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a file of JSON lines, if there is one, but for a last line that a killed process left unfinished."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
