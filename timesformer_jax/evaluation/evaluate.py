"""Evaluates a checkpoint on a data set, resumably: `evaluate("checkpoint", DataConfig(validation="k400/val.csv"))`.

recorder.py says what the output directory holds.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..checkpoints.fingerprints import fingerprints, model_facts
from ..checkpoints.mapping import Params
from ..checkpoints.open import load_checkpoint, processor_for
from ..config import TimesformerConfig
from ..data.agreement import PLACES, require_same_videos
from ..data.batches import EvaluationBatches
from ..data.config import ClipShape, DataConfig, Views
from ..data.sources import open_data
from ..errors import CheckpointError, ConfigError, DataError
from ..model.modeling import TimesformerForVideoClassification
from ..sharding import BatchPlace, MeshConfig, batch_share, make_mesh, place, use_mesh
from ..support.agreement import require_agreement, settings, versions
from ..support.distributed import announce, announce_progress, from_first, is_first, wait_for_all
from ..support.dtypes import DTypeName, require_x64
from ..support.progress import Display
from ..support.ranges import COUNT
from ..video.processing import VideoProcessor
from .classes import match_classes
from .metrics import Evaluation, VideoResult
from .prediction import make_predict, predict_batch
from .recorder import BAD_VIDEOS, Recorder


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
        data: its `validation` names the videos.
        views: which views of each video are averaged; the defaults of `Views` when None.
        batch_size: videos in a batch, over all devices.
        dtype: type of the computation.
        mesh: how the devices share the work.
        output: a directory for the results; where it holds a part of the same evaluation, that is not done again.
        **options: other arguments of `load_checkpoint`.

    Raises:
        DataError: the videos can't be used, or their classes are not the model's.
        CheckpointError: the checkpoint can't be loaded, or has a finite score for no video.
        ConfigError: the output directory holds another evaluation, or the batch has no size.
    """
    views = views or Views()
    if batch_size not in COUNT:
        raise ConfigError(f"batch_size is {batch_size}: it must be {COUNT}.")
    facts = {"batch_size": batch_size, "dtype": dtype, "mesh": dataclasses.asdict(mesh or MeshConfig())}
    facts |= {"data": dataclasses.asdict(data), **dataclasses.asdict(views)}
    require_agreement(
        "the settings", lambda: {"the command": "evaluate", **settings(facts, without=PLACES), **versions()}
    )
    sets = open_data(data)
    require_same_videos(sets, data)
    videos = sets.validation
    if videos is None:
        raise DataError("there are no videos to evaluate on; give --data.validation.")
    require_x64(dtype)
    storage = np.dtype(np.float64 if dtype == "float64" else np.float32)
    with announce_progress(f"loading {source}"):
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
    translation = match_classes(videos, names, str(source))
    devices = make_mesh(mesh)
    directory = None if output is None else Path(output)
    batches = EvaluationBatches(
        videos,
        data,
        clip=ClipShape(config.num_frames, *(processor.output_size or config.image_shape), rate),
        batch_size=batch_size,
        views=views,
        bad_list=None if directory is None else directory / BAD_VIDEOS,
        share=batch_share(devices, batch_size),
    )
    require_agreement("the model", lambda: model_facts(config, processor, params, str(source)))
    params = place(params, devices)
    evaluated = {
        "checkpoint": str(source),
        "model": model_fingerprint(config, processor, params),
        "data": data.validation,
        "videos": videos.fingerprint,
        "dtype": dtype,
        **dataclasses.asdict(views),
    }
    recorder = Recorder(directory, evaluated, videos.name)
    start = batches.number = from_first(recorder.resume(batch_size))
    predict = make_predict(model, processor, views.average)
    display = Display("evaluating", len(batches), start, 10) if is_first() else None
    if display is not None:
        display.start()
    try:
        with use_mesh(devices):
            for number, batch in enumerate(batches, start + 1):
                batch = {**batch, "labels": translation[batch["labels"]]}
                if number == start + 1:
                    wait_for_all("the first batch")
                results = predict_batch(predict, params, batch, BatchPlace(devices, batch_size))
                _warn_of_unanswered(results, recorder)
                recorder.add(results)
                if display is not None:
                    display.update(number, "")
    finally:
        if display is not None:
            display.stop()
        batches.close()
        recorder.close()
    evaluation = Evaluation.of(names, recorder.results)
    if evaluation.videos and evaluation.unanswered.sum() == evaluation.videos:
        raise CheckpointError(
            f"{source} gives scores that are not finite (NaN) for each of the {evaluation.videos} videos: its weights "
            "are broken, or too large for the type of the computation; there is nothing to evaluate."
        )
    recorder.write(evaluation)
    return evaluation


def _warn_of_unanswered(results: Sequence[VideoResult], recorder: Recorder) -> None:
    """Says so when the first video is met that the model gives no finite scores for."""
    first = next((result for result in results if result.unanswered), None)
    if first is not None and not any(result.unanswered for result in recorder.results):
        announce(
            f"the model's scores for {recorder.name(first.id)} are not finite (NaN): such videos are counted as "
            "unanswered, and as wrong"
        )


def model_fingerprint(config: TimesformerConfig, processor: VideoProcessor, params: Params) -> str:
    """A short text that tells one model from another by its weights, settings and preprocessing."""
    preprocessing = dataclasses.asdict(processor)
    if not processor.offset:  # as before there was one
        del preprocessing["offset"]
    parts = [config.to_dict(), preprocessing, fingerprints(params)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
