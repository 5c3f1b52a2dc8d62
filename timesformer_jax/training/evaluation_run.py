"""Evaluating a checkpoint on a data set, resumably: `evaluate("checkpoint", DataConfig(validation="k400/val.csv"))`.

With an output directory:

    settings.json       what is evaluated
    predictions.jsonl   a line for each video: id, label, best classes and their scores
    results.json        accuracies
    classes.csv         a row for each class
    confusion.png       which class is taken for which
"""

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..checkpoints import load_checkpoint
from ..distributed import announce, from_first, is_first
from ..distributed import step as shown_step
from ..errors import ConfigError, DataError
from ..files import read_json, write_atomically
from ..inference import processor_for
from ..modeling import TimesformerForVideoClassification
from ..options import DTypeName
from ..pretrained import require_x64
from ..sharding import BatchPlace, MeshConfig, batch_share, make_mesh, shardings_of, use_mesh
from .data import ClipShape, DataConfig, class_names, evaluation_clips
from .display import Display
from .evaluate import Average, Evaluation, VideoResult, make_predict, predict_batch
from .metrics import read_lines


@dataclasses.dataclass(frozen=True)
class Views:
    """Which views of a video are averaged; the defaults are the paper's three crops of one clip.

    Attributes:
        clips: of each video, spread over it.
        crops: of each clip: 1 in the centre, 3 along its long side.
        position: of a single clip: at the start, as the paper's code has it, or in the middle, as the paper says.
        average: of the logits (the paper's code) or of the probabilities.
    """

    clips: int = 1
    crops: int = 3
    position: Literal["first", "middle"] = "first"
    average: Average = "logits"


def evaluate(
    source: str | PathLike[str],
    data: DataConfig,
    *,
    views: Views | None = None,
    batch_size: int = 8,
    dtype: DTypeName = "float32",
    mesh: MeshConfig | None = None,
    output: str | PathLike[str] | None = None,
    **options: Any,
) -> Evaluation:
    """Evaluates a checkpoint of any kind.

    Args:
        source: as for `load_checkpoint`; the directory of a training run is one, too.
        data: `validation` says which videos.
        views: of each video.
        batch_size: videos in a batch, over all devices.
        dtype: of the computation.
        mesh: how the devices share the work.
        output: a directory for the results; where it holds a part of the same evaluation, that is not done again.
        **options: other arguments of `load_checkpoint`.

    Raises:
        DataError: the videos can't be used, or their classes are not the model's.
        CheckpointError: the checkpoint can't be loaded.
        ConfigError: the output directory holds another evaluation.
    """
    views = views or Views()
    if data.validation is None:
        raise DataError("there are no videos to evaluate on; give --data.validation.")
    require_x64(dtype)
    storage = np.dtype(np.float64 if dtype == "float64" else np.float32)
    with shown_step(f"loading {source}"):
        checkpoint = load_checkpoint(source, head=True, dtype=storage, **options)
    processor = processor_for(checkpoint)
    model, params = TimesformerForVideoClassification.from_checkpoint(checkpoint, dtype=jnp.dtype(dtype))
    config = model.config
    rate = config.sampling_rate
    if rate is None:
        raise ConfigError(
            f"nothing says how {source} was trained to sample its clips; give --config.sampling-rate (32, or segments)."
        )
    names = tuple(config.id2label[i] for i in range(config.num_labels))
    translation = translate(class_names(data), names, str(source))
    devices = make_mesh(mesh)
    index, count = batch_share(devices, batch_size)
    recorder = Recorder(
        None if output is None else Path(output),
        {"checkpoint": str(source), "data": data.validation, "dtype": dtype, **dataclasses.asdict(views)},
    )
    start = from_first(recorder.resume(batch_size))
    batches = evaluation_clips(
        data,
        clip=ClipShape(config.num_frames, *config.image_shape, rate),
        batch_size=batch_size,
        clips=views.clips,
        crops=views.crops,
        position=views.position,
        process_index=index,
        process_count=count,
        start=start,
    )
    predict = make_predict(model, processor, views.average)
    params = jax.device_put(params, shardings_of(params, devices))
    display = Display("evaluating", len(batches), start, 10) if is_first() else None
    if display is not None:
        display.start()
    try:
        with use_mesh(devices):
            for number, batch in enumerate(batches, start + 1):
                batch = {**batch, "labels": translation[batch["labels"]]}
                recorder.add(predict_batch(predict, params, batch, BatchPlace(devices, batch_size)))
                if display is not None:
                    display.update(number, "")
    finally:
        if display is not None:
            display.stop()
        batches.close()
        recorder.close()
    evaluation = Evaluation.of(names, recorder.results)
    recorder.write(evaluation)
    return evaluation


def translate(classes: Sequence[str], names: Sequence[str], source: str) -> np.ndarray[Any, Any]:
    """The model's number for each class of a data set.

    Raises:
        DataError: the model does not know a class.
    """
    if set(classes) <= set(names):
        return np.array([names.index(name) for name in classes], np.int32)
    if len(classes) <= len(names) and (_numbered(classes) or _numbered(names)):
        announce(f"the classes of the data and of {source} have different names; they are matched by number")
        return np.arange(len(classes), dtype=np.int32)
    unknown = [name for name in classes if name not in names]
    raise DataError(
        f"{source} does not know {len(unknown)} of the {len(classes)} classes of the videos, {unknown[0]!r} for one; "
        "give --labels with its class names, or --data.classes with those of the videos."
    )


def _numbered(names: Sequence[str]) -> bool:
    return all(name.removeprefix("LABEL_").isdigit() for name in names)


class Recorder:
    """Results as they come, in memory and in an output directory."""

    def __init__(self, directory: Path | None, settings: Mapping[str, Any]) -> None:
        """Nothing is read or written yet.

        Args:
            directory: the output directory, if there is one.
            settings: what is evaluated.
        """
        self.results: list[VideoResult] = []
        self._directory = directory
        self._settings = dict(settings)
        self._file: Any = None

    def resume(self, batch_size: int) -> int:
        """Takes up what an earlier process has done; gives the number of the batch to go on with.

        Raises:
            ConfigError: the directory holds another evaluation.
        """
        if self._directory is None or not is_first():
            return 0
        settings, predictions = self._directory / "settings.json", self._directory / "predictions.jsonl"
        if settings.exists():
            found = read_json(settings, ConfigError)
            different = [name for name in self._settings if found.get(name) != self._settings[name]]
            if different:
                name = different[0]
                raise ConfigError(
                    f"{self._directory} holds another evaluation: {name} is {self._settings[name]!r} here and "
                    f"{found.get(name)!r} there; choose another output directory."
                )
        else:
            with write_atomically(settings) as temporary:
                temporary.write_text(json.dumps(self._settings, indent=2) + "\n")
        lines = read_lines(predictions) if predictions.exists() else []
        done = len(lines) // batch_size
        self.results = [_result(line) for line in lines[: done * batch_size]]
        with write_atomically(predictions) as temporary:
            temporary.write_text("".join(map(_line, self.results)))
        self._file = predictions.open("a", buffering=1)
        return done

    def add(self, results: list[VideoResult]) -> None:
        """Notes a batch."""
        self.results += results
        if self._file is not None:
            self._file.write("".join(map(_line, results)))

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def write(self, evaluation: Evaluation) -> None:
        """Writes results, table and picture."""
        if self._directory is None or not is_first():
            return
        from .confusion import draw_confusion

        with write_atomically(self._directory / "results.json") as temporary:
            temporary.write_text(json.dumps(evaluation.summary(), indent=2) + "\n")
        with write_atomically(self._directory / "classes.csv") as temporary, temporary.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["class", "videos", "top1", "top5"])
            table.writerows(class_rows(evaluation))
        with write_atomically(self._directory / "confusion.png") as temporary:
            draw_confusion(evaluation, temporary)


def class_rows(evaluation: Evaluation) -> Iterator[tuple[str, int, float | None, float | None]]:
    """Name, videos, top-1 and top-5 accuracy of each class; None for a class without videos."""
    counts = evaluation.confusion.sum(axis=1)
    for i, name in enumerate(evaluation.classes):
        count = int(counts[i])
        if count:
            yield name, count, float(evaluation.confusion[i, i] / count), float(evaluation.in_top[i] / count)
        else:
            yield name, 0, None, None


def _line(result: VideoResult) -> str:
    return json.dumps(dataclasses.asdict(result)) + "\n"


def _result(line: Mapping[str, Any]) -> VideoResult:
    return VideoResult(line["id"], line["label"], tuple(line["top"]), tuple(line["scores"]))
