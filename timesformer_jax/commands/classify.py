"""`timesformer classify`: videos to labels."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..errors import TimesformerError, VideoError
from ..options import DTypeName, Flag, Loading, enable_x64
from ..progress import say, step, track


@dataclasses.dataclass(frozen=True)
class Classify:
    """Label videos.

    Exits with 0 when every video was answered, 1 when some could not be read, 2 when none could or the input is bad.

    Attributes:
        videos: video files, or directories of pictures.
        model: a converted or Transformers directory, a weights file, or a Hub id.
        top_k: how many classes to show for each video.
        dtype: of the computation.
        json: print one line of JSON for each video instead of a table.
        loading: how the checkpoint is loaded.
    """

    videos: tyro.conf.Positional[tuple[Path, ...]]
    model: str
    top_k: int = 5
    dtype: DTypeName = "float32"
    json: Flag = False
    loading: Annotated[Loading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Loading)

    def run(self) -> int:
        """Classifies the videos one by one; a bad one is reported and the others are answered."""
        if not self.videos:
            raise VideoError("no video is given; name at least one file or directory of pictures.")
        if self.top_k < 1:
            raise TimesformerError(f"--top-k must be 1 or more, not {self.top_k}.")
        enable_x64(self.dtype)
        with step(f"loading {self.model}"):
            from ..inference import VideoClassifier

            classify = VideoClassifier.from_pretrained(self.model, dtype=self.dtype, **self.loading.options())
        say(f"looking at {classify.sampling}")
        failures = 0
        for video in track(self.videos, "classifying"):
            try:
                predictions = classify(video, top_k=self.top_k)
            except VideoError as error:
                failures += 1
                say(str(error))
                if self.json:
                    print(json.dumps({"video": str(video), "error": str(error)}), flush=True)
                continue
            if self.json:
                rows = [dataclasses.asdict(prediction) for prediction in predictions]
                print(json.dumps({"video": str(video), "predictions": rows}), flush=True)
            else:
                print_predictions(str(video), predictions)
        if failures:
            say(f"{failures} of {len(self.videos)} videos could not be read.")
        return 0 if failures == 0 else 2 if failures == len(self.videos) else 1


def print_predictions(video: str, predictions: Sequence[Any]) -> None:
    """Prints a table of the classes of one video."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    print(video)
    table = Table("label", "score", "logit")
    for prediction in predictions:
        table.add_row(escape(prediction.label), f"{prediction.score:.4f}", f"{prediction.logit:.4f}")
    Console().print(table)
