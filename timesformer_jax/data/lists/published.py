"""Reads the lists of UCF-101, HMDB-51 and Something-Something V2, which have rules of their own.

https://www.crcv.ucf.edu/data/UCF101.php, https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from ...checkpoints.labels import read_labels, whole_number
from ...errors import DataError
from ...support.distributed import announce
from .. import storage
from .entry import Entry
from .rows import ListRows

_UCF_PATH = re.compile(r"(?:.*/)?([^/]+)/v_\1_g\d+_c\d+(?:\.\w+)?", re.IGNORECASE)
"""Two folders differ from the names of their files in capital letters: HandstandPushups/v_HandStandPushups_g01_c01."""

_HMDB_FILE = re.compile(r"(.+)_test_split([123])\.txt")

_HMDB_SPLIT = re.compile(r"(train|test)([123]?)")

_HMDB_FLAGS = {"train": "1", "test": "2"}


def ucf_test_list(source: str, text: str) -> ListRows | None:
    """Reads UCF-101's testlist01.txt, which has paths alone; None if the text is something else."""
    paths = text.split()
    if not paths or not all(map(_class_in_ucf_path, paths)):
        return None
    places = [number for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return ListRows(source, ("path", "label"), [[path, ""] for path in paths], places, unlabelled=True)


def _class_in_ucf_path(path: str) -> str | None:
    """The class that a path names: ApplyEyeMakeup of ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi."""
    match = _UCF_PATH.fullmatch(path)
    return match[1] if match else None


def name_ucf_classes(
    source: str, entries: Sequence[Entry], known: Sequence[str] | None
) -> tuple[Sequence[Entry], tuple[str, ...] | None]:
    """Takes the classes of UCF-101's lists from their folders, as testlist01.txt has no labels.

    trainlist01.txt counts its labels from 1, the lists of mmaction2 count them from 0; the folders tell what is meant.

    Args:
        source: what messages call the list.
        entries: the videos, with the label "" where there is none.
        known: names of the classes, if there are some.

    Returns:
        The entries with names as labels, and the names in the order of the numbers, if the list or the classInd.txt
        beside it tells it; or the entries as they are, where they are no such list.

    Raises:
        DataError: the numbers can't be understood without classInd.txt.
    """
    if _class_in_ucf_path(entries[0].path) is None:
        return entries, None
    folders = [_class_in_ucf_path(entry.path) for entry in entries]
    numbers = {entry.label: number for entry in entries if (number := whole_number(entry.label)) is not None}
    labels = {entry.label for entry in entries}
    unlabelled = labels == {""}
    if None in folders or not (unlabelled or numbers.keys() == labels):
        return entries, None
    named = {(entry.label, folder) for entry, folder in zip(entries, folders, strict=True)}
    if not unlabelled and not len(named) == len(labels) == len(set(folders)):
        return entries, None  # the labels mean something else than the folders
    index = storage.join(storage.parent(source), "classInd.txt")
    if known is None and storage.exists(index):
        known = tuple(read_labels(index).values())
        announce(f"{source}: the classes are those of {index}.")
    if known is not None and not set(folders) <= set(known):
        return count_from_zero(source, entries, known, "UCF-101's lists count from 1"), None
    entries = [dataclasses.replace(entry, label=str(name)) for entry, name in zip(entries, folders, strict=True)]
    if known is not None or unlabelled:
        return entries, None if known is None else tuple(known)
    by_number = {numbers[label]: str(folder) for label, folder in named}
    first = min(by_number)
    if first > 1 or set(by_number) != set(range(first, first + len(by_number))):
        raise DataError(
            f"{source}: the labels of UCF-101 have gaps here, so that classInd.txt is needed, beside the list or as "
            "--data.classes."
        )
    announce(f"{source}: the classes are the folders, in the order of their numbers, which count from {first}.")
    return entries, tuple(by_number[number] for number in sorted(by_number))


def count_from_zero(source: str, entries: Sequence[Entry], known: Sequence[str], why: str) -> Sequence[Entry]:
    """Counts labels from 0 that may count from 1, as the highest or the lowest of them tells.

    Args:
        source: what messages call the list.
        entries: the videos.
        known: the names of the classes.
        why: why the labels may count from 1.

    Raises:
        DataError: they may count from either.
    """
    numbers = {entry.label: whole_number(entry.label) for entry in entries if entry.label not in known}
    values = sorted(number for number in numbers.values() if number is not None)
    if len(values) < len(numbers) or not values or values[0] == 0:
        return entries
    if values[-1] != len(known):
        raise DataError(
            f"{source}: the labels are {values[0]} to {values[-1]}, and {why}, so that nobody can tell whether they "
            "do, too; write names as labels, or a file of class names that counts from 0."
        )
    announce(f"{source}: the labels count from 1 ({why}).")
    return [
        dataclasses.replace(entry, label=str(int(entry.label) - 1)) if entry.label in numbers else entry
        for entry in entries
    ]


def hmdb_files(source: str) -> list[str]:
    """The split files of HMDB-51 in a folder, or the one that a path names; none where it is something else."""
    if _HMDB_FILE.fullmatch(_file_name(source)) and not storage.is_folder(source):
        return [source]
    if not storage.is_folder(source):
        return []
    names = [
        name for name, is_a_folder in storage.list_folder(source) if not is_a_folder and _HMDB_FILE.fullmatch(name)
    ]
    return [storage.join(source, name) for name in names]


def read_hmdb(source: str, files: Sequence[str], split: str | None, use: str | None) -> list[Entry]:
    """Reads HMDB-51's split files: `name.avi 1` on each line, 1 for training, 2 for the test, 0 for neither.

    Args:
        source: what messages call them.
        files: the files, one for each class and split.
        split: train1, test1, train2, ...; without a number the first split is meant.
        use: what the videos are for, "train" or "validation", which chooses where no split is given.

    Raises:
        DataError: a line is no such line, or nothing tells which split is meant.
    """
    found = {file: match for file in files if (match := _HMDB_FILE.fullmatch(_file_name(file)))}
    numbers = sorted({match[2] for match in found.values()})
    name = split or {"train": "train", "validation": "test"}.get(use or "", "")
    chosen = _HMDB_SPLIT.fullmatch(name)
    if chosen is None or (chosen[2] or numbers[0]) not in numbers:
        names = ", ".join(f"{part}{number}" for number in numbers for part in _HMDB_FLAGS)
        raise DataError(f"{source} has the splits {names} of HMDB-51; name one{f', not {name!r}' if name else ''}.")
    part, number = chosen[1], chosen[2] or numbers[0]
    entries: list[Entry] = []
    for file, match in found.items():
        if match[2] != number:
            continue
        for place, line in enumerate(storage.read_text(file).splitlines(), 1):
            path, _, flag = line.strip().rpartition(" ")
            if not line.strip():
                continue
            if flag not in ("0", "1", "2") or not path:
                raise DataError(f"{file}, line {place} is {line[:80]!r}; expected is a name and 0, 1 or 2 (HMDB-51).")
            if flag == _HMDB_FLAGS[part]:
                entries.append(Entry(f"{match[1]}/{path.strip()}", match[1], f"{_file_name(file)}, line {place}"))
    announce(f"{source}: the {part} videos of split {number} are taken (HMDB-51).")
    return entries


def _file_name(location: str) -> str:
    return location.replace("\\", "/").rpartition("/")[2]


def something_something_entries(source: str, records: Sequence[dict[str, Any]], root: str) -> tuple[list[Entry], str]:
    """Reads Something-Something V2's JSON: a list of {"id": "78687", "template": "Holding [something] next to ..."}.

    The videos are `id`.webm (or another suffix), or folders of pictures called `id`.

    Args:
        source: what messages call the file.
        records: the objects in the file.
        root: folder of the videos, or of the folder 20bn-something-something-v2 that holds them.

    Returns:
        The videos, with the templates' names as labels, and the folder that they are in.

    Raises:
        DataError: it is something else.
    """
    if storage.is_folder(storage.join(root, "20bn-something-something-v2")):
        root = storage.join(root, "20bn-something-something-v2")
    files = {name if folder else name.rpartition(".")[0]: name for name, folder in storage.list_folder(root)}
    entries = [_something_something_entry(source, number, record, files) for number, record in enumerate(records, 1)]
    return entries, root


def _something_something_entry(source: str, number: int, record: dict[str, Any], files: dict[str, str]) -> Entry:
    name, template = record.get("id"), record.get("template")
    if not isinstance(template, str) or not isinstance(name, str | int):
        keys = ", ".join(map(str, record))
        raise DataError(f'{source}, video {number} has no "id" and "template" (it has: {keys}); test lists have none.')
    label = template.replace("[", "").replace("]", "")
    return Entry(files.get(str(name), f"{name}.webm"), label, f"video {number}")
