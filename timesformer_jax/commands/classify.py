"""`timesformer classify`: videos to labels."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import TimesformerError, VideoError
from ..support.dtypes import DTypeName, Weights, enable_x64
from ..support.mesh_config import MeshConfig
from ..support.progress import counter, say
from .options import Command, Flag, Loading, stream_of

if TYPE_CHECKING:
    from ..inference.classifier import VideoClassifier
    from ..inference.predictions import Answer, LongAnswer


@dataclasses.dataclass(frozen=True)
class Classify(Command):
    """Label videos.

    Exits with 0 when every video was answered, 1 when some could not be read, 2 when none could or the input is bad.

    Attributes:
        videos: video files, or directories of pictures.
        model: a converted or Transformers directory, a weights file, or a Hub id.
        top_k: how many classes to show for each video.
        clips: how many clips of each video, spread over it, whose logits are averaged.
        windows: slide over each whole video: classes for every window, and of the mean of their logits.
        overlap: share of a window that the next one covers again.
        seconds: length of a window at the video's mean frame rate; that of the training's clips when not given.
        picture_template: names of the frames in directories of pictures that hold other series beside them, such as
            img_{:05d}.jpg.
        dtype: type of the computation.
        weights: type of the stored weights; int8 takes a quarter of float32's memory.
        batch_size: clips on the devices together; 1 on a CPU and 8 elsewhere for each device when not given.
        json: print one line of JSON for each video instead of a table.
        mesh: how the devices share the work.
        video_stream: number of the video stream, from 0, of files that hold several; the one that a file marks, or the
            best by FFmpeg's rule, when not given.
        loading: how the checkpoint is loaded.
    """

    videos: tyro.conf.Positional[tuple[Path, ...]]
    model: str
    top_k: int = 5
    clips: int = 1
    windows: Flag = False
    overlap: float | None = None
    seconds: float | None = None
    picture_template: str | None = None
    dtype: DTypeName = "float32"
    weights: Weights = "float"
    batch_size: int | None = None
    json: Flag = False
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    video_stream: int | None = None
    loading: Annotated[Loading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Loading)

    def run(self) -> int:
        """Classifies the videos one after the other; a bad one is reported and the others are answered."""
        self._require_sense()
        enable_x64(self.dtype)
        from ..sharding import make_mesh

        mesh = make_mesh(self.mesh)
        say(f"loading {self.model} ...")
        from ..inference.classifier import VideoClassifier

        classify = VideoClassifier.from_pretrained(
            self.model,
            dtype=self.dtype,
            weights=self.weights,
            batch_size=self.batch_size,
            mesh=mesh if mesh.size > 1 else None,
            wait=False,
            **self.loading.options(),
        )
        failures = self._slide(classify) if self.windows else self._answer(classify)
        if failures:
            say(f"{failures} of {len(self.videos)} videos could not be read.")
        return 0 if failures == 0 else 2 if failures == len(self.videos) else 1

    def _require_sense(self) -> None:
        if not self.videos:
            raise VideoError("no video is given; name at least one file or directory of pictures.")
        for name in ("top_k", "clips", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TimesformerError(f"--{name.replace('_', '-')} must be 1 or more, not {value}.")
        if self.windows and self.clips > 1:
            raise TimesformerError("--windows covers the whole video; leave --clips away.")
        if not self.windows and (self.overlap is not None or self.seconds is not None):
            raise TimesformerError("--overlap and --seconds are for --windows.")

    def _answer(self, classify: "VideoClassifier") -> int:
        """Prints an answer for each video; returns how many could not be read."""
        where = classify.sampling if self.clips == 1 else f"{self.clips} clips spread over each video"
        say(f"classifying {where}")
        failures = 0
        with contextlib.ExitStack() as stack:
            count = stack.enter_context(counter(len(self.videos), "classifying")) if len(self.videos) > 1 else None
            for answer in classify.answers(self._opened(), top_k=self.top_k, clips=self.clips):
                if count is not None:
                    count(1)
                if answer.error is not None:
                    failures += 1
                    self._print_error(str(answer.video), answer.error)
                elif self.json:
                    print(json.dumps(_answer_fields(answer)), flush=True)
                else:
                    print(answer.video)
                    print_predictions(answer.predictions)
        return failures

    def _opened(self) -> list[Any]:
        from ..video.pictures import open_pictures

        streams = (stream_of(video, self.video_stream) for video in self.videos)
        return [open_pictures(video, self.picture_template) for video in streams]

    def _slide(self, classify: "VideoClassifier") -> int:
        """Prints the windows of each video; returns how many could not be read."""
        failures = 0
        for video in self._opened():
            try:
                with contextlib.ExitStack() as stack:
                    answer = classify.windows(
                        video,
                        overlap=self.overlap or 0.0,
                        seconds=self.seconds,
                        top_k=self.top_k,
                        progress=_counting(f"sliding over {video}", stack),
                    )
            except VideoError as error:
                failures += 1
                self._print_error(str(video), error)
                continue
            if self.json:
                print(json.dumps({"video": str(video), **_long_fields(answer)}), flush=True)
            else:
                print(video)
                print_windows(answer)
                print("the whole video")
                print_predictions(answer.predictions)
        return failures

    def _print_error(self, video: str, error: VideoError) -> None:
        message = str(error) if video in str(error) else f"{video}: {error}"
        say(message)
        if self.json:
            print(json.dumps({"video": video, "error": message}), flush=True)


def _counting(description: str, stack: contextlib.ExitStack) -> Callable[[int, int], None]:
    """Gives a function of (done, total) that shows a bar from its first call until the stack is closed."""
    counts: list[Callable[[int], None]] = []
    before = 0

    def progress(done: int, total: int) -> None:
        nonlocal before
        if not counts:
            counts.append(stack.enter_context(counter(total, description)))
        counts[0](done - before)
        before = done

    return progress


def _answer_fields(answer: "Answer") -> dict[str, Any]:
    return {"video": str(answer.video), "predictions": [dataclasses.asdict(item) for item in answer.predictions]}


def _long_fields(answer: "LongAnswer") -> dict[str, Any]:
    windows = [
        {
            "start": round(window.start, 3),
            "end": round(window.end, 3),
            "predictions": [dataclasses.asdict(item) for item in window.predictions],
        }
        for window in answer.windows
    ]
    return {"predictions": [dataclasses.asdict(item) for item in answer.predictions], "windows": windows}


def print_predictions(predictions: Sequence[Any]) -> None:
    """Prints a table of classes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("label", "score", "logit")
    for prediction in predictions:
        table.add_row(escape(prediction.label), f"{prediction.score:.4f}", f"{prediction.logit:.4f}")
    Console().print(table)


def print_windows(answer: "LongAnswer") -> None:
    """Prints a table of windows: times in seconds, the best class of each."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("from (s)", "to (s)", "label", "score")
    for window in answer.windows:
        best = window.predictions[0]
        table.add_row(f"{window.start:.1f}", f"{window.end:.1f}", escape(best.label), f"{best.score:.4f}")
    Console().print(table)
