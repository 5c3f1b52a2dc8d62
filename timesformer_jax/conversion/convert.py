"""Converts checkpoints: to Orbax for JAX, and to safetensors for Transformers."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from ..checkpoints.adapt import Changes
from ..checkpoints.formats import open_files, recognise
from ..checkpoints.hub import HubOptions
from ..checkpoints.huggingface import find_weights, require_known
from ..checkpoints.mapping import Params
from ..checkpoints.open import Checkpoint, load_checkpoint, open_checkpoint, processor_for
from ..checkpoints.orbax_directory import is_converted
from ..checkpoints.source import AdapterSource, Source, locate
from ..errors import CheckpointError
from ..model.modeling import TimesformerForVideoClassification, TimesformerModel
from ..parameters import BACKBONE
from ..support.files import write_atomically
from ..support.progress import say, show_progress
from ..video.processing import VideoProcessor
from ..video.reading import Video, read_clip
from .verify import Difference, print_differences, random_clip, require_explained, require_reference, verify

Model = TimesformerForVideoClassification | TimesformerModel
Save = Callable[[Model, Path, Params, VideoProcessor], None]


def convert_hf_to_flax(
    source: str | PathLike[str],
    destination: str | PathLike[str],
    *,
    param_dtype: DTypeLike | None = None,
    overwrite: bool = False,
    check: bool = False,
    video: Video | None = None,
    hub: HubOptions | None = None,
    base: str | PathLike[str] | None = None,
    **options: Any,
) -> list[Difference]:
    """Converts a PyTorch checkpoint to a directory that JAX jobs read without torch.

    The directory holds config.json, preprocessor_config.json and the parameters in Orbax.

    Args:
        source: a Transformers directory or weights file, a Hub id, an original .pyth file, a checkpoint of mmaction2
            or Lightning, a Trainer's output directory, a ViT or a PEFT adapter.
        destination: the directory to make. It is written as a whole, or not at all.
        param_dtype: the type of the stored parameters; None keeps the file's own.
        overwrite: replace an existing checkpoint at the destination, once the new one is complete.
        check: run PyTorch and Flax on the same clip, print how they differ, and fail if float32 does not explain it.
        video: the clip to compare on; random pixel values when None.
        hub: how to reach the Hub.
        base: the checkpoint that a PEFT adapter is merged into; None takes the one that the adapter names.
        **options: other arguments of `load_checkpoint`: `labels`, `channel_order`, config fields, ...

    Returns:
        The differences found by `check`; empty without it.

    Raises:
        CheckpointError: the source can't be read, the destination exists, or an argument is missing.
        VerificationError: the two models differ by more than float32 explains.
    """
    found = locate(source, hub, base)
    if found.layout == "converted directory":
        raise CheckpointError(f"{found.name} is a converted directory already.")

    def save(model: Model, directory: Path, params: Params, processor: VideoProcessor) -> None:
        model.save_converted(directory, params, processor=processor)

    options["dtype"] = None if param_dtype is None else np.dtype(jnp.dtype(param_dtype))
    return _convert(found, Path(destination), save, overwrite, check, video, options, to_transformers=False)


def convert_flax_to_hf(
    source: str | PathLike[str],
    destination: str | PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    check: bool = False,
    video: Video | None = None,
    hub: HubOptions | None = None,
    base: str | PathLike[str] | None = None,
    **options: Any,
) -> list[Difference]:
    """Converts a checkpoint to a directory that Transformers 4.56 and 5.x load.

    The directory holds config.json, preprocessor_config.json, a model card and safetensors.

    Args:
        source: a converted directory, or any other checkpoint that `load_checkpoint` reads.
        destination: the directory to make. It is written as a whole, or not at all.
        max_shard_size: bytes, or a text such as "500MB", above which the weights are cut into several files.
        overwrite: replace an existing checkpoint at the destination, once the new one is complete.
        check: as for `convert_hf_to_flax`; PyTorch runs what was written.
        video: the clip to compare on; random pixel values when None.
        hub: how to reach the Hub.
        base: the checkpoint that a PEFT adapter is merged into; None takes the one that the adapter names.
        **options: other arguments of `load_checkpoint`.

    Returns:
        The differences found by `check`; empty without it.

    Raises:
        CheckpointError: the source can't be read, the destination exists, an argument is missing, or Transformers has
            no such model.
        VerificationError: the two models differ by more than float32 explains.
    """

    def save(model: Model, directory: Path, params: Params, processor: VideoProcessor) -> None:
        model.save_pretrained(directory, params, processor=processor, max_shard_size=max_shard_size)

    found = locate(source, hub, base)
    return _convert(found, Path(destination), save, overwrite, check, video, options, to_transformers=True)


def _convert(
    source: Source,
    destination: Path,
    save: Save,
    overwrite: bool,
    check: bool,
    video: Video | None,
    options: dict[str, Any],
    *,
    to_transformers: bool,
) -> list[Difference]:
    _require_free(destination, overwrite)
    if check:
        require_reference(*(["peft"] if isinstance(source, AdapterSource) else []))
    opened = open_checkpoint(source, **options)
    if check or to_transformers:
        require_known(opened.config)
    with show_progress(f"reading {source.weights}"):
        checkpoint = opened.read()
    processor = processor_for(checkpoint)
    if checkpoint.processor is None and source.processor_file is None:
        say(
            f"{source.name} has no preprocessor_config.json; writing that of the published TimeSformer models "
            f"(mean {processor.image_mean}, standard deviation {processor.image_std})."
        )
    with write_atomically(destination) as temporary:
        with show_progress(f"writing {destination}"):
            save(_model(checkpoint), temporary, checkpoint.params, processor)
        if not check:
            return []
        clip = random_clip(checkpoint.config)
        if video is not None:
            clip = processor(read_clip(video, checkpoint.config.num_frames))
        changes = checkpoint.changes
        del checkpoint
        return _verify(source, temporary, changes, clip, options)


def _verify(
    source: Source, written: Path, changes: Changes, clip: Float[np.ndarray, "1 t h w c"], options: dict[str, Any]
) -> list[Difference]:
    """Compares PyTorch with Flax: one runs the source, the other what was written, read back from the disk."""
    with show_progress("running PyTorch and Flax on the same clip"):
        output = locate(written)
        stored, checkpoint = None, None
        if output.layout == "converted directory" or isinstance(source, AdapterSource):
            files = open_files(source, options.get("training_weights"))
            stored = recognise(source, files, options, options.get("patch_order"))
            changed = bool(changes.new or changes.resized or set(changes.dropped) - set(stored.dropped))
            if output.layout == "converted directory" and changed:
                raise CheckpointError(
                    f"{source.name} can't be compared with PyTorch while it is changed on the way (another size, "
                    "classifier or attention); convert it as it is, or without verification."
                )
            if output.layout == "converted directory" or (stored.tensors is not None and not changed):
                checkpoint = load_checkpoint(output)  # PEFT merges an adapter into PyTorch's weights
        if stored is None or checkpoint is None:
            stored = recognise(output, open_files(output), {})
            checkpoint = load_checkpoint(source, **options)
        if stored.tensors is None:
            raise CheckpointError(
                f"{source.name} holds no PyTorch weights to compare with; convert it without --verify."
            )
        differences = verify(stored.tensors, _model(checkpoint), checkpoint.params, clip, stored.adapter)
    print_differences(differences)
    require_explained(differences)
    return differences


def _require_free(destination: Path, overwrite: bool) -> None:
    if not destination.exists():
        return
    if not overwrite:
        raise CheckpointError(f"{destination} exists already; choose another name or pass --overwrite.")
    is_checkpoint = destination.is_dir() and (is_converted(destination) or find_weights(destination) is not None)
    if not is_checkpoint and not (destination.is_dir() and not any(destination.iterdir())):
        raise CheckpointError(f"{destination} is no checkpoint, so it is not overwritten; choose another name.")


def _model(checkpoint: Checkpoint) -> Model:
    return (TimesformerForVideoClassification if BACKBONE in checkpoint.params else TimesformerModel)(checkpoint.config)
