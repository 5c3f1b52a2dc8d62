"""Videos in files, or in folders of pictures, as lists and folders name them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from ..errors import DataError
from ..video.packets import EncodedVideo
from ..video.reading import Pictures
from . import storage
from .classes import Classes, number_labels
from .lists.entry import Entry
from .spans import Span, Spans
from .videos import Videos, fingerprint, full_name

_LOOKED_FOR = 20
"""How many of a list's first videos are looked for before a wrong root is assumed."""


@dataclass(frozen=True, eq=False)
class VideoFiles(Videos):
    """Videos in files, or in folders of pictures; their names are paths as listed.

    Attributes:
        root: folder or URL that the paths are relative to.
    """

    root: str

    def open(self, index: int) -> str | EncodedVideo | Pictures:
        """Opens a video for `read_by_rule`."""
        return storage.video(storage.join(self.root, self.file(index)))


def video_files(entries: Sequence[Entry], root: str, classes: Classes | None, source: str) -> VideoFiles:
    """Makes videos from the entries of a list, which may name a video several times.

    Args:
        entries: the lines of the list.
        root: folder or URL that the paths are relative to.
        classes: what the labels mean; when None the names in the list, sorted, or its numbers.
        source: what messages call the list.

    Raises:
        DataError: there are none, one has two labels or a span that is none, a label is unknown, or none of the files
            is there.
    """
    if not entries:
        raise DataError(f"{source} lists no videos.")
    labels, classes = number_labels(entries, classes, source)
    seen: dict[tuple[str, Span | None], int] = {}
    for number, entry in enumerate(entries):
        require_span(entry, source)
        first = seen.setdefault((entry.path, entry.span), number)
        if labels[first] != labels[number]:
            raise DataError(
                f"{source} lists {full_name(entry.path, entry.span)} with two labels, {entries[first].label!r} "
                f"({entries[first].where}) and {entry.label!r} ({entry.where}); a video has one."
            )
    looked_for = [storage.join(root, path) for path in list(dict.fromkeys(path for path, _ in seen))[:_LOOKED_FOR]]
    if not any(storage.exists(path) for path in looked_for):
        raise DataError(
            f"{source}: none of its first {len(looked_for)} videos exists ({looked_for[0]}, ...); is the root right?"
        )
    names = [full_name(entry.path, entry.span) for entry in entries]
    return VideoFiles(
        encode_names([entry.path for entry in entries], source),
        labels,
        classes.names,
        fingerprint(names, labels, classes.names),
        root,
        ordered=classes.ordered,
        spans=Spans.of(entry.span for entry in entries),
    )


def require_span(entry: Entry, source: str) -> None:
    """Checks that an entry's span, if it has one, is one.

    Raises:
        DataError: it isn't.
    """
    span = entry.span
    # Written so that what is not a number fits neither.
    if span is not None and not (span.start >= 0 and (span.end is None or span.end > span.start)):
        raise DataError(
            f"{source}, {entry.where}: the part from {span.start} to {span.end} {span.unit} is none; it must begin "
            "at 0 or later, and end after its beginning."
        )


def encode_names(names: Sequence[str], source: str) -> Shaped[np.ndarray, " n"]:
    """Names as `Videos` keeps them.

    Raises:
        DataError: a file's name is no text.
    """
    try:
        return np.array([name.encode() for name in names])
    except UnicodeEncodeError as error:
        raise DataError(f"{source}: the file name {error.object!a} is no text (UTF-8); rename the file.") from None
