"""Which pictures of a folder are the frames of its video.

Folders hold more than frames: optical flow beside them (`img_00001.jpg`, `x_00001.jpg`, `y_00001.jpg`, as TSN and
mmaction2 keep them), depth, masks, a poster. Pictures whose names differ in one number are a series. Of several series
the one called img, image, frame, rgb or color is the video, or else the only one in colour.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ..errors import ConfigError, VideoError

FRAME_NAMES = {"img", "image", "frame", "frames", "rgb", "color", "colour"}
"""What the series of a video's frames is called."""

_FIELD = re.compile(r"\{[A-Za-z_]*[0-9]*(?::(?:0([0-9]+))?d?)?\}|%(?:0([0-9]+))?d")


@dataclass(frozen=True)
class Series:
    """Pictures whose names differ in a number alone.

    Attributes:
        template: their names, with a replacement field for the number.
        names: in natural order (2.jpg before 10.jpg).
        numbers: of the pictures, in the same order; empty where a picture has several that count.
    """

    template: str
    names: tuple[str, ...]
    numbers: tuple[int, ...] = ()

    def gaps(self) -> str | None:
        """Says which numbers are missing, if any; every second or every tenth of the frames is no gap."""
        steps = [after - before for before, after in itertools.pairwise(self.numbers)]
        if len(steps) < 2:
            return None
        usual, times = Counter(steps).most_common(1)[0]
        missing = sum(step // usual - 1 for step in steps if step > usual)
        if not missing or times * 2 < len(steps):
            return None
        i = next(i for i, step in enumerate(steps) if step >= 2 * usual)
        return f"{missing} of its pictures are missing: {self.names[i + 1]} comes after {self.names[i]}"


def match_template(template: str, names: Iterable[str], folder: str = "the folder") -> Series:
    """The pictures whose names a template makes, such as "img_{:05d}.jpg" (mmaction2) or "img_%05d.jpg" (FFmpeg).

    Raises:
        ConfigError: the template has no field for a number, or several.
        VideoError: there are names, but none of them fits.
    """
    found = list(_FIELD.finditer(template))
    if len(found) != 1 or set("{}") & set(template[: found[0].start()] + template[found[0].end() :]):
        raise ConfigError(f"picture template {template!r} must have one field for a number, as in 'img_{{:05d}}.jpg'.")
    width = int(found[0][1] or found[0][2] or 0)
    before, after = (re.escape(part) for part in (template[: found[0].start()], template[found[0].end() :]))
    pattern = re.compile(f"{before}([0-9]+){after}")
    numbered = [
        (int(match[1]), name)
        for name in names
        if (match := pattern.fullmatch(name)) and match[1] == f"{int(match[1]):0{width}d}"
    ]
    if names and not numbered:
        there = _listed(_all_series(names))
        raise VideoError(f"{folder} holds no picture {template}; there are {there}.")
    numbered.sort()
    return Series(template, tuple(name for _, name in numbered), tuple(number for number, _ in numbered))


def choose_series(folder: str, names: Sequence[str], is_in_colour: Callable[[str], bool]) -> tuple[Series, str]:
    """The frames of a video among the pictures of a folder.

    Args:
        folder: what messages call it.
        names: of the pictures.
        is_in_colour: whether the picture of a name shows colours; asked only where names don't tell.

    Returns:
        The series, and what is left out, in words.

    Raises:
        VideoError: which series is meant can't be told.
    """
    found = _all_series(names)
    if len(found) == 1:
        return found[0], ""
    several = [series for series in found if len(series.names) > 1]
    candidates = several or found
    named = [series for series in candidates if _called(series) in FRAME_NAMES]
    candidates = named or candidates
    if len(candidates) > 1 and not several:  # names without a system, such as a.jpg and b.jpg
        return Series(found[0].template, tuple(sorted(names, key=natural_order))), ""
    if len(candidates) > 1:
        candidates = [series for series in candidates if _is_in_colour(series, is_in_colour)] or candidates
    others = [series for series in found if series is not candidates[0]]
    odd = sum(len(series.names) == 1 for series in others)
    if len(candidates) > 1 or (not named and odd >= len(candidates[0].names)):
        raise VideoError(
            f"{folder} holds several series of pictures: {_listed(found)}. Say which is the video by its template, as "
            f"in --picture-template {found[0].template!r} (--data.picture-template in training and evaluation)."
        )
    return candidates[0], _listed(others)


def natural_order(name: str) -> tuple[list[int | str], str]:
    """A key that sorts 2.jpg before 10.jpg: every second part is a number."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))], name


def _listed(series: Sequence[Series]) -> str:
    more = f" and {len(series) - 5} more" if len(series) > 5 else ""
    return ", ".join(each.template for each in series[:5]) + more


def _called(series: Series) -> str:
    """What a series is called: its template without number, suffix and separators."""
    return re.sub(r"\{.*?\}|[^a-z]", "", PurePath(series.template).stem.lower())


def _is_in_colour(series: Series, is_in_colour: Callable[[str], bool]) -> bool:
    names = series.names
    return any(is_in_colour(name) for name in {names[0], names[len(names) // 2], names[-1]})


def _all_series(names: Iterable[str]) -> list[Series]:
    """All series, in natural order; a picture that is in none is a series by itself."""
    groups: dict[tuple[str, ...], list[_Name]] = {}
    for text in names:
        name = _Name.of(text)
        groups.setdefault(name.texts, []).append(name)
    found = [series for group in groups.values() for series in _split(group)]
    return sorted(found, key=lambda series: natural_order(series.names[0]))


@dataclass(frozen=True)
class _Name:
    """A name in its parts: what is between the numbers, the numbers' digits, and the suffix."""

    text: str
    texts: tuple[str, ...]
    digits: tuple[str, ...]
    suffix: str

    @classmethod
    def of(cls, text: str) -> "_Name":
        parts = re.split("([0-9]+)", PurePath(text).stem)
        return cls(text, tuple(parts[::2]), tuple(parts[1::2]), PurePath(text).suffix)


def _split(group: Sequence[_Name]) -> list[Series]:
    """The series among names that differ in numbers and suffixes alone."""
    columns = [{int(name.digits[i]) for name in group} for i in range(len(group[0].digits))]
    if not columns:
        return [Series(name.text, (name.text,)) for name in group]
    # What counts the frames has the most values; where several have (a number and a time), the last.
    counter = max(range(len(columns)), key=lambda i: (len(columns[i]), i))

    def rest(name: _Name) -> tuple[int, ...]:
        return tuple(int(digits) for i, digits in enumerate(name.digits) if i != counter)

    def number(name: _Name) -> int:
        return int(name.digits[counter])

    parts = _grouped(group, rest)
    if len(parts) > 1 and (_run_on([[number(name) for name in part] for part in parts]) or _is_clock(group[0])):
        ordered = sorted((name.text for name in group), key=natural_order)
        return [Series(_template(group, counter), tuple(ordered))]
    # The number of a frame may stand there twice: as .jpg and .png, or as 1.jpg and 01.jpg.
    for kind in (lambda name: name.suffix.lower(), lambda name: name.digits[counter][:1] == "0"):
        split: list[list[_Name]] = []
        for part in parts:
            split += [part] if len({number(name) for name in part}) == len(part) else _grouped(part, kind)
        parts = split
    found: list[Series] = []
    for part in parts:
        part.sort(key=lambda name: (number(name), name.text))
        found.append(
            Series(_template(part, counter), tuple(name.text for name in part), tuple(number(name) for name in part))
        )
    return found


def _grouped(names: Sequence[_Name], key: Callable[[_Name], object]) -> list[list[_Name]]:
    groups: dict[object, list[_Name]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return list(groups.values())


def _run_on(parts: Sequence[Sequence[int]]) -> bool:
    """Whether the numbers of each part come after those of the last: parts of one series, as (frame, time) is."""
    if all(len(part) == 1 for part in parts):
        return True
    ordered = sorted(parts, key=min)
    return all(max(before) < min(after) for before, after in itertools.pairwise(ordered))


def _is_clock(name: _Name) -> bool:
    """Whether the numbers may be hours, minutes and seconds: three or more with nothing between but signs."""
    return len(name.digits) > 2 and not any(re.search("[A-Za-z]", text) for text in name.texts[1:-1])


def _template(names: Sequence[_Name], counter: int) -> str:
    """The names with a field for their number; a single name stands for itself."""
    first = names[0]
    if len(names) == 1:
        return first.text
    padded = any(name.digits[counter][0] == "0" and len(name.digits[counter]) > 1 for name in names)
    field = f"{{:0{len(first.digits[counter])}d}}" if padded else "{:d}"
    varying = [len({name.digits[i] for name in names}) > 1 for i in range(len(first.digits))]
    shown = ["{}" if varying[i] else digits for i, digits in enumerate(first.digits)]
    shown[counter] = field
    return "".join(a + b for a, b in itertools.zip_longest(first.texts, shown, fillvalue="")) + first.suffix
