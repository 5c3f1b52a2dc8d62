"""The output directory of an evaluation: results are noted as they come, and summed up at the end.

settings.json       what is evaluated
predictions.jsonl   a line for each video: id, name, label, best classes and their scores
bad_videos.txt      what could not be decoded
results.json        accuracies
classes.csv         a row for each class
confusion.csv       how many videos of which class are given which class
confusion.png       the same as a picture, of up to 2,000 classes
"""

import csv
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..support.distributed import is_first
from ..support.files import read_json, read_lines, write_atomically
from ..support.progress import say
from .metrics import Evaluation, VideoResult

BAD_VIDEOS = "bad_videos.txt"


class Recorder:
    """Notes results as they come, in memory and in an output directory.

    Attributes:
        results: so far.
        name: gives the name of a video by its id.
    """

    def __init__(self, directory: Path | None, settings: Mapping[str, Any], name: Callable[[int], str]) -> None:
        """Nothing is read or written yet.

        Args:
            directory: the output directory, if there is one.
            settings: what is evaluated.
            name: gives the name of a video by its id.
        """
        self.results: list[VideoResult] = []
        self._directory = directory
        self._settings, self.name = dict(settings), name
        self._file: Any = None

    def resume(self, batch_size: int) -> int:
        """Reads what an earlier process has done; gives the number of the batch to go on with.

        Raises:
            ConfigError: the directory holds another evaluation.
        """
        if self._directory is None or not is_first():
            return 0
        settings, predictions = self._directory / "settings.json", self._directory / "predictions.jsonl"
        if settings.exists():
            found = read_json(settings, ConfigError)
            # The same model or videos may be found elsewhere now.
            different = [
                name
                for name in self._settings
                if name not in ("checkpoint", "data") and found.get(name) != self._settings[name]
            ]
            if different:
                name = different[0]
                raise ConfigError(
                    f"{self._directory} holds another evaluation: {name} is {self._settings[name]!r} here and "
                    f"{found.get(name)!r} there; choose another output directory."
                )
        else:
            with write_atomically(settings) as temporary:
                temporary.write_text(json.dumps(self._settings, indent=2) + "\n")
        lines = read_lines(predictions)
        done = len(lines) // batch_size
        self.results = [_result(line) for line in lines[: done * batch_size]]
        with write_atomically(predictions) as temporary:
            temporary.write_text("".join(map(self._line, self.results)))
        self._file = predictions.open("a", buffering=1)
        return done

    def add(self, results: list[VideoResult]) -> None:
        """Notes the results of a batch."""
        self.results += results
        if self._file is not None:
            self._file.write("".join(map(self._line, results)))

    def _line(self, result: VideoResult) -> str:
        return json.dumps({"id": result.id, "video": self.name(result.id)} | dataclasses.asdict(result)) + "\n"

    def close(self) -> None:
        """Closes the file of predictions."""
        if self._file is not None:
            self._file.close()

    def write(self, evaluation: Evaluation) -> None:
        """Writes accuracies, tables and picture."""
        if self._directory is None or not is_first():
            return
        from .confusion import MOST_DRAWN, draw_confusion

        with write_atomically(self._directory / "results.json") as temporary:
            temporary.write_text(json.dumps(evaluation.summary(), indent=2) + "\n")
        with write_atomically(self._directory / "classes.csv") as temporary, temporary.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["class", "videos", "top1", "top5"])
            table.writerows(_class_rows(evaluation))
        with write_atomically(self._directory / "confusion.csv") as temporary, temporary.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["class", "predicted", "videos"])
            table.writerows(_confusion_rows(evaluation))
        if len(evaluation.classes) > MOST_DRAWN:
            say(f"{len(evaluation.classes):,} classes are too many for a picture of the confusion: see confusion.csv")
            return
        with write_atomically(self._directory / "confusion.png") as temporary:
            draw_confusion(evaluation, temporary)


def _class_rows(evaluation: Evaluation) -> Iterator[tuple[str, int, float | None, float | None]]:
    """Gives name, videos, top-1 and top-5 accuracy of each class; None for a class without videos."""
    counts, right = evaluation.class_videos, evaluation.class_right
    columns = (evaluation.classes, counts.tolist(), right.tolist(), evaluation.in_top.tolist())
    for name, count, first, among in zip(*columns, strict=True):
        yield name, count, first / count if count else None, among / count if count else None


def _confusion_rows(evaluation: Evaluation) -> Iterator[tuple[str, str, int]]:
    """Gives a class, the class that its videos are given, and how many are; no name for those without an answer."""
    names = evaluation.classes
    for (label, predicted), count in sorted(evaluation.answers.items()):
        yield names[label], names[predicted], count
    for label in np.flatnonzero(evaluation.unanswered).tolist():
        yield names[label], "", int(evaluation.unanswered[label])


def _result(line: Mapping[str, Any]) -> VideoResult:
    if not np.isfinite(line["scores"]).all():  # noted by an earlier version
        line = {**line, "top": (), "scores": (), "unanswered": True}
    scores, unanswered = tuple(line["scores"]), line.get("unanswered", False)
    return VideoResult(line["id"], line["label"], tuple(line["top"]), scores, unanswered)
