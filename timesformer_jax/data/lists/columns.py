"""Which column of a table has the paths of the videos, which their labels, and so on, by their names."""

import re
from collections.abc import Sequence

from ...errors import DataError
from ...support.distributed import announce

_NAMES: dict[str, tuple[str, ...]] = {
    "path": (
        *(
            "path",
            "videopath",
            "filepath",
            "clippath",
            "relativepath",
            "file",
            "filename",
            "videofile",
            "videofilename",
        ),
        *("clipfile", "clipfilename", "video", "videoname", "clip", "clipname", "framedir", "framesdir", "name"),
        *("videoid", "clipid", "vidname", "vid", "youtubeid", "ytid", "id"),
    ),
    "label": (
        *("label", "labelname", "labels", "classname", "class", "classlabel", "actionname", "action", "actionlabel"),
        *("actionclass", "activity", "category", "categoryname", "tag", "target", "labelid", "classid", "actionid"),
        *("categoryid", "labelindex", "classindex", "y"),
    ),
    "start": (
        *("start", "starttime", "timestart", "startsec", "starts", "startseconds", "startsecond", "tstart", "begin"),
        *("begintime", "segmentstart", "clipstart", "starttimestamp"),
    ),
    "end": (
        *("end", "endtime", "timeend", "endsec", "ends", "endseconds", "endsecond", "tend", "stop", "stoptime"),
        *("segmentend", "clipend", "endtimestamp", "stoptimestamp"),
    ),
    "split": ("split", "subset", "set", "partition", "phase", "usage"),
    "caption": ("caption", "captions", "text", "description", "narration", "sentence"),
    "offset": ("offset",),
    "frames": ("frames", "numframes", "totalframes", "nframes"),
}
"""What columns are called, in small letters without spaces and underscores; of several in a table the first counts."""

_IDS = {"youtubeid", "ytid"}
"""Names of videos that are no names of files."""

_FRAMES = {"startframe", "endframe", "stopframe", "framestart", "frameend", "framestop", "beginframe"}


def plain(name: str) -> str:
    """The name of a column as `columns_of` compares it."""
    return re.sub(r"[\s_.-]", "", name.strip().lstrip("#").lower())


def columns_of(names: Sequence[str]) -> dict[str, int]:
    """Finds the columns whose names are known.

    Args:
        names: the names of all columns.

    Returns:
        The number of the column for each of "path", "label", "start", "end", "split", "caption", "offset" and "frames"
        that there is.
    """
    given = [plain(name) for name in names]
    return {
        role: given.index(next(name for name in known if name in given))
        for role, known in _NAMES.items()
        if not set(known).isdisjoint(given)
    }


def is_heading(cells: Sequence[str]) -> bool:
    """Whether a row has names of columns that are known, and no video."""
    found = columns_of(cells)
    if len(cells) == 2 and plain(cells[1]) in ("label", "labels", "class", "category"):
        return True
    return ("path" in found and "label" in found) or len(found) > 2


def require_columns(names: Sequence[str], source: str, *, template: bool) -> dict[str, int]:
    """Finds the columns of a table of videos; the first of two columns is the path, if nothing is known of it.

    Args:
        names: the names of all columns.
        source: what messages call the table.
        template: whether paths are made by a template, so that no column must have them.

    Raises:
        DataError: nothing tells which column has the paths or the labels, or two have one name.
    """
    found = columns_of(names)
    if len(names) == 2 and len(found) < 2:
        other = {"path": "label", "label": "path"}
        found = {**found, **{other[role]: 1 - found[role] for role in found if role in other}} or {
            "path": 0,
            "label": 1,
        }
    has = ", ".join(repr(name) for name in names)
    given = [plain(name) for name in names]
    for role, column in found.items():
        if given.count(given[column]) > 1:
            raise DataError(f"{source} has two columns named {names[column]!r}; which has the {role}s?")
        others = [name for i, name in enumerate(names) if given[i] in _NAMES[role] and i != column]
        if others and role in ("path", "label"):
            announce(f"{source}: the {role}s are those of the column {names[column]!r}, not of {', '.join(others)}.")
    if "label" not in found:
        raise DataError(f"{source} has no column of labels (it has {has}); name one label. Test lists have none.")
    if "path" not in found and not template:
        raise DataError(
            f"{source} has no column of paths (it has {has}); name one path, or give --data.video-template."
        )
    if "start" not in found and "end" not in found and (frames := set(given) & _FRAMES):
        raise DataError(
            f"{source} has a column {names[given.index(min(frames))]!r}: parts of videos are read in seconds, from "
            "columns named start and end; where the files are the parts, remove the columns of frames."
        )
    return found


def is_id(name: str) -> bool:
    """Whether a column has names of videos that are no names of files, as Kinetics' lists do."""
    return plain(name) in _IDS
