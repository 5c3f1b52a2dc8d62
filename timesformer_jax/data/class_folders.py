"""A folder that has a folder for each class: which of the files in it are videos."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import DataError, VideoError
from ..support.distributed import announce
from ..video.opening import open_video
from ..video.reading import PICTURE_SUFFIXES
from . import storage
from .lists.entry import VIDEO_SUFFIXES, Entry

_STILL_PICTURES = PICTURE_SUFFIXES | {".avif", ".heic", ".heif", ".ico", ".tif", ".tiff"}

_PROBED = 8
"""So many files of an unknown suffix are opened; where these agree, the others are taken to be like them."""


def read_class_folders(folder: str) -> list[Entry]:
    """Lists a folder that has a folder for each class, which holds videos, or a folder of pictures for each video.

    Files of a known suffix are videos. Of the others those are videos that PyAV opens as such; behind a URL they are
    not opened, and none is. What is left out is counted and named.

    Raises:
        DataError: it holds something else.
    """
    top = storage.list_folder(folder)
    classes = [name for name, is_a_folder in top if is_a_folder]
    if not classes:
        raise DataError(f"{folder} holds no folders: videos are expected in a folder for each class.")
    found: list[tuple[str, str, bool]] = []  # class, name, whether it is a folder
    for label in classes:
        inside = storage.list_folder(storage.join(folder, label))
        nested = [name for name, is_a_folder in inside if is_a_folder]
        if nested and not storage.picture_names(storage.join(folder, f"{label}/{nested[0]}")):
            raise DataError(
                f"{folder}/{label}/{nested[0]} holds no pictures; name the folder just above the class folders, which "
                "hold the videos (files, or folders of pictures)."
            )
        found += [(label, name, is_a_folder) for name, is_a_folder in inside]
    doubtful = [f"{label}/{name}" for label, name, is_a_folder in found if not (is_a_folder or _is_known(name))]
    others = set(doubtful) - set(_videos_among(doubtful, folder))
    entries = [
        Entry(f"{label}/{name}", label, f"folder {label}")
        for label, name, _ in found
        if f"{label}/{name}" not in others
    ]
    left_out = [name for name, is_a_folder in top if not is_a_folder and _is_known(name)] + sorted(others)
    if not entries:
        raise DataError(f"{folder} holds no videos in its {len(classes)} folders{_named(left_out, ' (but {})')}.")
    if left_out:
        why = "unknown suffixes, which are only looked into on this machine" if storage.is_url(folder) else "no videos"
        announce(f"{folder}: {_named(left_out, '{}')} left out: {why}, or in no class's folder.")
    empty = sorted(set(classes) - {entry.label for entry in entries})
    if empty:
        announce(f"{folder}: no class is made of {_named(empty, '{}')}, which hold no videos.")
    return entries


def _is_known(name: str) -> bool:
    return storage.suffix(name) in VIDEO_SUFFIXES


def _named(names: Sequence[str], text: str) -> str:
    """Counts names and shows the first; nothing where there are none."""
    if not names:
        return ""
    more = ", ..." if len(names) > 3 else ""
    return text.format(f"{len(names)} ({', '.join(names[:3])}{more})")


def _videos_among(names: Sequence[str], folder: str) -> Iterator[str]:
    """The files that turn out to be videos; no more are opened than it takes."""
    if storage.is_url(folder):
        return
    by_suffix: dict[str, list[str]] = {}
    for name in names:
        by_suffix.setdefault(storage.suffix(name), []).append(name)
    with ThreadPoolExecutor() as pool:
        for suffix, files in by_suffix.items():
            # A name without a suffix promises nothing: each may be something else.
            step = -(-len(files) // _PROBED) if suffix else 1
            answers = _probe(pool, folder, files[::step])
            if len(set(answers)) == 1:
                answers = answers[:1] * len(files)
            elif step > 1:
                answers = _probe(pool, folder, files)
            yield from (name for name, is_a_video in zip(files, answers, strict=True) if is_a_video)


def _probe(pool: ThreadPoolExecutor, folder: str, names: Sequence[str]) -> list[bool]:
    return list(pool.map(_opens_as_video, [storage.join(folder, name) for name in names]))


def _opens_as_video(path: str) -> bool:
    """Whether a file is a video, and not a picture, by what PyAV makes of its beginning."""
    try:
        if storage.suffix(path) in _STILL_PICTURES:
            return storage.suffix(path) == ".webp" and _is_animated_webp(path)
        with open_video(path, threads=1) as (container, stream):
            kind = container.format.name
            return stream.codec_context.width > 0 and not kind.startswith("image2") and not kind.endswith("_pipe")
    except (VideoError, OSError):
        return False


def _is_animated_webp(path: str) -> bool:
    """Whether a WebP file says so: RIFF, size, WEBP, VP8X, size, and flags with the bit of animation."""
    with Path(path).open("rb") as file:
        header = file.read(21)
    return header[8:16] == b"WEBPVP8X" and len(header) == 21 and bool(header[20] & 2)
