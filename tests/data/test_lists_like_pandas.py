"""Generated lists: what is read of them is what pandas reads in the same columns, or they are refused."""

import contextlib
import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from timesformer_jax.data import storage
from timesformer_jax.data.lists.listing import Choice
from timesformer_jax.data.sources import read_videos
from timesformer_jax.errors import DataError

pandas = pytest.importorskip("pandas")

WORDS = st.text("ab1 ,;\t'é-_#\"x0.", min_size=1, max_size=8)
NAMES = {
    "path": ["path", "Video Path", "file_name", "video", "filename"],
    "label": ["label", "class", "Class Name", "action", "category"],
    "start": ["start", "start_time", "time_start"],
    "end": ["end", "end_time", "stop"],
    "split": ["split", "subset"],
    "caption": ["caption", "text", "fps", "Unnamed: 0", "width"],
}
LABELS = {
    "numbers": st.integers(0, 12).map(str),
    "floats": st.integers(0, 12).map("{}.0".format),
    "mixed": st.one_of(st.integers(0, 3).map(str), st.floats(0, 3, width=16).map(str), st.sampled_from(["run", ""])),
    "names": st.sampled_from(["run", "jump", "abseiling", "swim"]),
    "phrases": st.one_of(
        WORDS, st.sampled_from(["riding a bike", "bend/bow (at the waist)", "a, b", "massaging person's head"])
    ),
}


@dataclasses.dataclass(frozen=True)
class Written:
    """A list: its text, how pandas reads it, and whether nothing about it is in doubt."""

    text: str
    separator: str
    columns: list[str]
    heading: bool
    rows: list[dict[str, str]]
    joined: bool
    choice: Choice
    sure: bool


@st.composite
def lists(draw: st.DrawFn) -> Written:
    separator = draw(st.sampled_from([",", ",", "\t", ";", " "]))
    kind = draw(st.sampled_from(sorted(LABELS)))
    heading = draw(st.booleans())
    optional = [name for name in ("start", "end", "split", "caption") if heading and draw(st.booleans())]
    columns = draw(st.permutations(["path", "label", *optional])) if heading else ["path", "label"]
    plain = draw(st.booleans())
    words = st.text("abx0-_é", min_size=1, max_size=6) if plain else WORDS
    endings = st.sampled_from([".mp4", ".avi", ".MKV", ".webm"] if draw(st.booleans()) else [".mp4", ""])
    times = st.one_of(st.sampled_from(["", "0", "1.5"]), st.integers(0, 30).map(str))
    rows = [
        {
            "path": (draw(words) + draw(endings)).strip(),
            "label": draw(LABELS[kind]).strip(),
            "start": draw(times),
            "end": draw(times),
            "split": draw(st.sampled_from(["train", "val", "test"])),
            "caption": draw(WORDS).strip(),
        }
        for _ in range(draw(st.integers(1, 7)))
    ]
    names = [draw(st.sampled_from(NAMES[column])) for column in columns]
    # Paths with separators in them may stand without quotes before a class number.
    joined = not heading and kind == "numbers" and draw(st.booleans())
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    output = io.StringIO()
    if joined:
        output.write("".join(f"{row['path']}{separator}{row['label']}{ending}" for row in rows))
    else:
        writer = csv.writer(output, delimiter=separator, quoting=quoting, lineterminator=ending)
        writer.writerows([names] * heading + [[row[column] for column in columns] for row in rows])
    text = output.getvalue()
    lines = text.split(ending)
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), "")
    text = draw(st.sampled_from(["", "\ufeff"])) + ending.join(lines)
    choice = Choice(draw(st.sampled_from(["train", "validation"])))
    sure = plain and heading and not optional and kind in ("numbers", "floats", "names")
    return Written(text, separator, columns, heading, rows, joined, choice, sure)


def expected(source: str, written: Written) -> list[tuple[str, str, float, float | None]]:
    """Path, label, start and end of each row, as pandas reads the list."""
    if written.joined:
        rows = written.rows
    else:
        frame = pandas.read_csv(
            source,
            sep=written.separator,
            header=0 if written.heading else None,
            names=written.columns,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            encoding="utf-8-sig",
        )
        rows = frame.to_dict("records")
    splits = {row["split"] for row in rows} if "split" in written.columns else set()
    if len(splits) > 1:
        order = ["train"] if written.choice.use == "train" else ["val", "test"]
        wanted = next(split for split in [*order, ""] if split in splits or not split)
        rows = [row for row in rows if row["split"] == wanted]
    read: list[tuple[str, str, float, float | None]] = []
    for row in rows:
        start = row["start"].strip() if "start" in written.columns else ""
        end = row["end"].strip() if "end" in written.columns else ""
        label = row["label"].strip()
        with contextlib.suppress(ValueError, OverflowError):
            label = str(int(number)) if (number := float(label)).is_integer() else label
        read.append((row["path"].strip(), label, float(start or 0), float(end) if end else None))
    return read


def check(folder: Path, patch: Callable[..., Any], written: Written) -> str:
    """Compares a list with pandas' reading.

    Returns:
        What came of it: "read" or "refused".
    """
    source = folder / "list.csv"
    source.write_text(written.text, encoding="utf-8", newline="")
    there = {str(folder / row["path"]) for row in written.rows} | {str(source)}
    patch(storage, "exists", lambda location: location in there)
    message = ""
    try:
        videos = read_videos(str(source), choice=written.choice)
    except DataError as error:
        videos, message = None, str(error)
    if videos is None:
        assert "\n" not in message
        assert not written.sure or "with two labels" in message, message
        return "refused"
    read: list[tuple[str, str, float, float | None]] = []
    for i in range(len(videos)):
        span = videos.span(i)
        times = (0.0, None) if span is None else (span.start, span.end)
        read.append((videos.file(i), videos.classes[videos.label(i)], *times))
        assert span is None or span.unit == "seconds"
    assert read == expected(str(source), written)
    return "read"


def compare(folder: Path, monkeypatch: pytest.MonkeyPatch, examples: int) -> dict[str, int]:
    counts = {"read": 0, "refused": 0}

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(lists())
    def test(written: Written) -> None:
        counts[check(folder, monkeypatch.setattr, written)] += 1

    test()
    return counts


def test_200_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = compare(tmp_path, monkeypatch, 200)
    assert sum(counts.values()) >= 200
    assert counts["read"] > 80, counts


@pytest.mark.long
def test_2000_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = compare(tmp_path, monkeypatch, 2000)
    print(counts)
    assert sum(counts.values()) >= 2000
    assert counts["read"] > 800, counts
