"""Which of a model's classes each class of a data set is."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32

from ..data.classes import numbers_of
from ..data.videos import Videos
from ..errors import DataError
from ..support.distributed import announce


def match_classes(videos: Videos, names: Sequence[str], source: str) -> Int32[np.ndarray, " classes"]:
    """Gives the model's number for each class of a data set.

    Classes are matched by their names. Where these differ in capitals or underscores alone, that is passed over. Names
    that are numbers (of folders, of labels in a list) mean the model's class of that number: the one that is called so
    (7 or LABEL_7), or the one at that place where the model's classes have names. Classes with names are matched with a
    model's numbers only if somebody gave their order (`Videos.ordered`). Whatever is not an exact match is said.

    Args:
        videos: the data set; of its classes only those that have videos need be known to the model.
        names: the model's classes, by number.
        source: what messages call the model.

    Returns:
        The model's number of each class; -1 for one that has no videos and is unknown.

    Raises:
        DataError: the model does not know a class, or it can't be told which it is.
    """
    classes = videos.classes
    if classes == tuple(names):
        return np.arange(len(names), dtype=np.int32)
    used = [classes[number] for number in np.unique(videos.labels).tolist()]

    def by(key: Callable[[str], str]) -> Int32[np.ndarray, " classes"] | None:
        places = {key(name): place for place, name in enumerate(names)}
        if not {key(name) for name in used} <= places.keys():
            return None
        return np.array([places.get(key(name), -1) for name in classes], np.int32)

    exact = by(str)
    if exact is not None:
        twice = next((name for name in used if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{source} has several classes called {twice!r}; give --labels with names that differ.")
        return exact
    numbers, own_numbers = numbers_of(used), numbers_of([name.removeprefix("LABEL_") for name in names])
    if numbers is not None:
        return _by_number(classes, used, own_numbers, names, source)
    if own_numbers is not None:
        if videos.ordered and len(classes) == len(names):
            announce(f"the classes of {source} are numbers; those of the data are matched with them in their order")
            return np.arange(len(names), dtype=np.int32)
        raise DataError(
            f"{source} calls its {len(names)} classes by numbers ({names[0]}, ...), which does not tell which of them "
            f"is {used[0]!r}; give --labels with their names, or --data.classes with all {len(names)} names in the "
            "model's order."
        )
    if len({_plain(name) for name in names}) == len(names) and len({_plain(name) for name in used}) == len(used):
        alike = by(_plain)
        if alike is not None:
            announce(f"the classes of the data and of {source} differ in capitals or underscores, which is passed over")
            return alike
    unknown = [name for name in used if name not in names]
    raise DataError(
        f"{source} does not know {len(unknown)} of the {len(used)} classes of the videos, {unknown[0]!r} for one; "
        "give --labels with its class names, or --data.classes with those of the videos."
    )


def _by_number(
    classes: Sequence[str], used: Sequence[str], own: dict[int, int] | None, names: Sequence[str], source: str
) -> Int32[np.ndarray, " classes"]:
    places = {number: number for number in range(len(names))} if own is None else own
    unknown = next((name for name in used if int(name) not in places), None)
    if unknown is not None:
        raise DataError(
            f"label {unknown} of the videos is the number of none of the {len(names)} classes of {source}, which count "
            f"from {min(places)} to {max(places)}; give --data.classes with the names of the classes."
        )
    announce(f"the classes of the data and of {source} have different names; they are matched by number")
    return np.array([places.get(int(name), -1) for name in classes], np.int32)


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())
