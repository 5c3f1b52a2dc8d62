"""Reads files on this machine or behind a URL (gs://, s3://, memory://, ...), as the lists of videos name them."""

import glob
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, VideoError
from ..video.packets import EncodedVideo
from ..video.reading import PICTURE_SUFFIXES, Pictures

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def is_url(location: str) -> bool:
    """Whether a location is a URL and not a path on this machine."""
    return "://" in location


def join(root: str, path: str) -> str:
    """Puts a path below a root, unless it is absolute or a URL."""
    if is_url(path) or Path(path).is_absolute():
        return path
    return posixpath.join(root, path) if is_url(root) else str(Path(root) / path)


def parent(location: str) -> str:
    """The folder that a file is in."""
    return posixpath.dirname(location) if is_url(location) else str(Path(location).parent)


def read_text(location: str) -> str:
    """Reads a file of text.

    Raises:
        DataError: it can't be read, or is no text.
    """
    return decode(location, read_data(location))


def read_data(location: str) -> bytes:
    """Reads a file whole, with a sentence where that fails.

    Raises:
        DataError: it can't be read.
    """
    try:
        return read_bytes(location)
    except OSError as error:
        raise DataError(f"{location} can't be read: {error.strerror or error}.") from None


def decode(location: str, data: bytes) -> str:
    """The text in a file.

    Raises:
        DataError: it is no text.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{location} is no text (UTF-8), so it is no list of videos.") from None


def read_bytes(location: str) -> bytes:
    """Reads a file.

    Raises:
        OSError: it can't be read.
        DataError: nothing is installed that reads such URLs.
    """
    if not is_url(location):
        return Path(location).read_bytes()
    system, path = _file_system(location)
    data: Any = system.cat_file(path)
    return bytes(data)


def read_range(location: str, start: int, size: int) -> bytes:
    """Reads a part of a file.

    Raises:
        VideoError: it can't be read, or ends before.
    """
    try:
        if is_url(location):
            system, path = _file_system(location)
            found: Any = system.cat_file(path, start=start, end=start + size)
            data = bytes(found)
        else:
            with Path(location).open("rb", buffering=0) as file:
                file.seek(start)
                data = file.read(size)
    except DataError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise VideoError(f"{location} can't be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(data) != size:
        raise VideoError(f"{location} ends {size - len(data)} bytes too early; copy it again.")
    return data


def open_file(location: str) -> Any:
    """Opens a file to read bytes from anywhere in it.

    Raises:
        DataError: it can't be opened.
    """
    try:
        if not is_url(location):
            return Path(location).open("rb")
        system, path = _file_system(location)
        return system.open(path, "rb")
    except OSError as error:
        raise DataError(f"{location} can't be read: {error.strerror or error}.") from None


def is_pattern(location: str) -> bool:
    """Whether a location stands for several files: with {000..099}, {a,b} or *."""
    return bool(re.search(r"\*|\{[^{}]*(,|\.\.)[^{}]*\}", location)) and not exists(location)


def expand(pattern: str) -> tuple[str, ...]:
    """The files that a pattern stands for, in the order of its numbers, and of the alphabet where it has a star.

    Raises:
        DataError: one of them does not exist.
    """
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces:
        first, dots, last = braces[1].partition("..")
        if dots and first.isdecimal() and last.isdecimal():
            choices = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
        else:
            choices = braces[1].split(",")
        parts = [pattern[: braces.start()] + choice + pattern[braces.end() :] for choice in choices]
        return tuple(file for part in parts for file in expand(part))
    if "*" not in pattern:
        if not exists(pattern):
            raise DataError(f"{pattern} does not exist.")
        return (pattern,)
    if is_url(pattern):
        system, path = _file_system(pattern)
        found = [system.unstrip_protocol(str(file)) for file in system.glob(path)]
    else:
        found = glob.glob(pattern)  # noqa: PTH207 (which keeps the path as it is written)
    if not found:
        raise DataError(f"{pattern} stands for no file.")
    return tuple(sorted(map(str, found)))


def files_in(folder: str, ending: str) -> tuple[str, ...]:
    """The files of one kind in a folder that holds no further folders; none where it does, or is none itself."""
    if not is_folder(folder):
        return ()
    found = list_folder(folder)
    if any(is_a_folder for _, is_a_folder in found):
        return ()
    return tuple(join(folder, name) for name, _ in found if suffix(name) == ending)


def exists(location: str) -> bool:
    """Whether there is such a file or folder."""
    if not is_url(location):
        return Path(location).exists()
    system, path = _file_system(location)
    return bool(system.exists(path))


def is_folder(location: str) -> bool:
    """Whether there is a folder of this name."""
    if not is_url(location):
        return Path(location).is_dir()
    system, path = _file_system(location)
    return bool(system.isdir(path))


def list_folder(location: str) -> list[tuple[str, bool]]:
    """Lists what a folder holds, sorted by name, and whether each is a folder; hidden files are left out.

    Raises:
        DataError: it can't be read.
    """
    try:
        if not is_url(location):
            found = [(entry.name, entry.is_dir()) for entry in Path(location).iterdir()]
        else:
            system, path = _file_system(location)
            entries = system.ls(path, detail=True)
            found = [(posixpath.basename(entry["name"].rstrip("/")), entry["type"] == "directory") for entry in entries]
    except OSError as error:
        raise DataError(f"{location} can't be read: {error.strerror or error}.") from None
    return sorted((name, folder) for name, folder in found if name and not name.startswith("."))


def video(location: str) -> str | EncodedVideo | Pictures:
    """Opens a video for `read_by_rule`: a path stays one, what a URL stands for is read into memory.

    Raises:
        VideoError: a URL can't be read.
    """
    if not is_url(location):
        return location
    try:
        return pictures(location) if is_folder(location) else EncodedVideo(location, read_bytes(location))
    except DataError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise VideoError(f"{location} can't be read: {getattr(error, 'strerror', None) or error}.") from error


def pictures(folder: str) -> Pictures:
    """A folder of pictures as a video."""
    return Pictures(folder, picture_names(folder), lambda name: read_bytes(join(folder, name)))


def picture_names(folder: str) -> tuple[str, ...]:
    """The pictures in a folder."""
    return tuple(
        name for name, is_a_folder in list_folder(folder) if not is_a_folder and suffix(name) in PICTURE_SUFFIXES
    )


def suffix(name: str) -> str:
    """The end of a file's name from its last dot on, in small letters."""
    return posixpath.splitext(name)[1].lower()


def _file_system(location: str) -> tuple["AbstractFileSystem", str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(location)
    except ImportError as error:
        raise DataError(f"{location} needs a further package to be read: {error}.") from None
    except ValueError as error:
        raise DataError(f"{location} can't be read: {error}.") from None
