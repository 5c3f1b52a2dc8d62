"""The list of videos that can't be decoded, shared by all processes that read, and the limit to their number."""

import fcntl
import os
import re
from pathlib import Path

from ..errors import DataError

FEWEST = 3
"""So many bad videos are allowed in the smallest data set, unless none at all is."""


class BadVideos:
    """A text file with a line for each bad video: its name, a tab, and what is wrong with it.

    Several processes of a machine may write to one file; each video is listed once.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def add(self, name: str, reason: str) -> int:
        """Lists a video, unless it is listed already.

        Returns:
            The number of videos listed, here and by other hosts whose lists are in the same folder.
        """
        name, reason = (text.replace("\n", " ").replace("\t", " ") for text in (name, reason))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
            file.seek(0)
            if name not in {line.split("\t")[0] for line in file}:
                file.write(f"{name}\t{reason}\n")
        return len(self.names())

    def names(self) -> set[str]:
        """The names of the videos listed, here and by other hosts."""
        own = self.path.stem.split(".")[0]
        found: set[str] = set()
        for path in self.path.parent.glob(f"*{self.path.suffix}"):
            if re.fullmatch(re.escape(own) + r"(\.[0-9]+)?", path.stem):
                lines = path.read_text(encoding="utf-8").splitlines()
                found |= {line.split("\t")[0] for line in lines}
        return found


def path_for_process(path: str | os.PathLike[str], process_index: int, process_count: int) -> Path:
    """The list of one host: bad.3.txt for host 3 of several, bad.txt for a single one."""
    path = Path(path)
    return path if process_count == 1 else path.with_suffix(f".{process_index}{path.suffix}")


def require_few(bad: int, seen: int, total: int, max_fraction: float, path: Path) -> None:
    """Stops when too many videos are bad.

    That is so when more than the allowed share of all videos are known to be bad, or so many of the first ones, which
    come in random order, that no allowed share makes it likely (by four standard deviations, and ten videos more).

    Args:
        bad: different videos that could not be decoded.
        seen: how many videos have been tried, at most.
        total: videos in the data set.
        max_fraction: the share of them that may be bad.
        path: the list of bad videos.

    Raises:
        DataError: there are too many.
    """
    limit = max_fraction * total
    limit = max(limit, FEWEST) if max_fraction else limit
    expected = max_fraction * seen
    if bad > limit or (seen < total and bad > expected + 4 * expected**0.5 + 10):
        tried = f"{bad} of {total}" if seen >= total else f"{bad} of the first {seen} (of {total})"
        raise DataError(
            f"{tried} videos can't be decoded, more than the {max_fraction:.1%} of --data.max-bad-fraction; "
            f"they are listed in {path} (repair them and delete the list, or allow more)."
        )
