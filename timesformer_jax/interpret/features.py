"""Embeddings of videos: of the clip (CLS), of each frame and of each patch; of many videos into one file.

Each finished video is kept in a directory beside the file until all are done, so that a run that is killed goes on
where it was.
"""

import dataclasses
import functools
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ..checkpoints.mapping import Params
from ..errors import TimesformerError, VideoError
from ..model.modeling import TimesformerModel
from ..support.compilation import compiler_options
from ..support.files import write_atomically
from ..support.prefetch import batched, prefetch_map
from ..video.packets import FileStream
from ..video.pictures import open_pictures
from .feature_files import FeatureTable, require_writable, write_features
from .layer_attentions import Model, backbone, grid_of
from .relevance import final_norm
from .video_encoder import VideoEncoder

EmbeddingKind = Literal["cls", "frames", "patches"]
Frames = UInt8[np.ndarray, "t h w 3"]


def embed_clips(
    model: Model, params: Params, pixel_values: Float[Array | np.ndarray, "b t height width c"]
) -> dict[str, Float[Array, "b ..."]]:
    """The embeddings of clips, after the final norm.

    Args:
        model: of any attention type, with or without a classifier.
        params: its parameters.
        pixel_values: normalised clips, as for the model.

    Returns:
        "cls" (b, d), which the classifier sees; "patches" (b, t, rows, columns, d); and "frames" (b, t, d), the mean
        of a frame's patches.
    """
    return compiled_embedding()(model, params, pixel_values)


@functools.cache
def compiled_embedding() -> Any:
    """`_embed_clips` under `jax.jit`."""
    return jax.jit(_embed_clips, static_argnums=0, compiler_options=compiler_options())


def _embed_clips(model: Model, params: Params, pixel_values: Array) -> dict[str, Array]:
    space_only = model.config.attention_type == "space_only"
    bare: Any = TimesformerModel(model.config, **model.numerics())
    outputs = bare.apply({"params": backbone(model, params)}, pixel_values, output_hidden_states=space_only)
    frames, rows, columns = grid_of(model, pixel_values)
    cls, patches = outputs.last_hidden_state[:, 0], outputs.last_hidden_state[:, 1:]
    if space_only:  # which averages its frames before the norm
        patches = final_norm(model, params, outputs.hidden_states[-1])[:, :, 1:]
        patches = patches.reshape(len(cls), frames, rows, columns, -1)
    else:
        patches = jnp.moveaxis(patches.reshape(len(cls), rows, columns, frames, -1), 3, 1)
    return {"cls": cls, "frames": patches.mean(axis=(2, 3)), "patches": patches}


@dataclasses.dataclass(frozen=True)
class FeatureReport:
    """What `extract_features` did.

    Attributes:
        file: that was written; None where no video could be read.
        written: videos in it.
        resumed: of these, those that an earlier run had finished.
        failures: why a video is missing, by its name.
    """

    file: Path | None
    written: int
    resumed: int
    failures: Mapping[str, str]


def extract_features(
    encoder: VideoEncoder,
    videos: Sequence[str | PathLike[str]],
    file: str | Path,
    *,
    picture_template: str | None = None,
    kinds: Sequence[EmbeddingKind] = ("cls", "frames"),
    batch_size: int = 1,
    storage: Literal["float32", "float16"] = "float32",
    overwrite: bool = False,
    done: Callable[[int], None] = lambda _: None,
    failed: Callable[[str, VideoError], None] = lambda *_: None,
) -> FeatureReport:
    """Writes the embeddings of many videos into one file (see `read_features`).

    Args:
        encoder: the model with its preprocessing.
        videos: files (or a `FileStream` of one), or directories of pictures.
        file: ends in .safetensors, .npz or .parquet, which tells the format.
        picture_template: names of the frames in directories of pictures, such as "img_{:05d}.jpg"; None where the
            pictures' own names tell.
        kinds: which embeddings. Those of patches are large: 4.8 MB for a video of a base model.
        batch_size: videos that are computed together.
        storage: type of the numbers in the file.
        overwrite: replace an existing file.
        done: told of each number of videos that are finished.
        failed: told of each video that can't be read.

    Raises:
        TimesformerError: the file exists, has another suffix, an unfinished run beside it had other settings, or videos
            of different shapes would come out in different shapes.
    """
    file = Path(file)
    require_writable(file, overwrite=overwrite)
    if not kinds or batch_size < 1:
        raise TimesformerError("at least one kind of embedding and a batch of at least one video are needed.")
    if encoder.processor.output_size is None:  # rows of one file have one shape
        raise TimesformerError(
            f"the preprocessing of {encoder.name} leaves each video its own shape; pass --size HEIGHT WIDTH."
        )
    kinds = tuple(dict.fromkeys(kinds))
    settings = _settings(encoder, kinds, storage)
    partial = _open_partial(file, settings, overwrite)

    files = {str(video): video for video in videos}
    paths = {name: partial / f"{_key(video, picture_template)}.safetensors" for name, video in files.items()}
    finished = {name for name, path in paths.items() if _is_whole(path)}
    done(len(finished))
    failures: dict[str, str] = {}

    def read(name: str) -> Frames | VideoError:
        try:
            return encoder.read(open_pictures(files[name], picture_template))
        except VideoError as error:
            return error

    remaining = (name for name in paths if name not in finished)
    for batch in batched(prefetch_map(remaining, read, workers=2, most=batch_size + 1), batch_size):
        readable: list[tuple[str, Frames]] = []
        for name, frames in batch:
            if isinstance(frames, VideoError):
                failures[name] = str(frames)
                failed(name, frames)
            else:
                readable.append((name, frames))
        if readable:
            # A batch that is not full is filled up, so that it needs no compilation of its own.
            stacked = np.stack([frames for _, frames in (readable * batch_size)[:batch_size]])
            embeddings = embed_clips(encoder.model, encoder.params, encoder.pixel_values(stacked))
            arrays = {kind: np.asarray(embeddings[kind], storage) for kind in kinds}
            for i, (name, _) in enumerate(readable):
                with write_atomically(paths[name]) as temporary:
                    save_file({kind: np.ascontiguousarray(arrays[kind][i]) for kind in kinds}, temporary)
        done(len(batch))

    names = [str(video) for video in videos if str(video) not in failures]
    if names:
        _join(file, names, paths, kinds, failures, settings)
    shutil.rmtree(partial)
    return FeatureReport(file if names else None, len(names), len(finished), failures)


def _join(
    file: Path,
    names: list[str],
    paths: Mapping[str, Path],
    kinds: Sequence[EmbeddingKind],
    failures: Mapping[str, str],
    settings: Mapping[str, Any],
) -> None:
    @functools.lru_cache(maxsize=1)
    def load(name: str) -> dict[str, np.ndarray]:
        return load_file(paths[name])

    first = load(names[0])
    shapes = {kind: first[kind].shape for kind in kinds}
    dtype = first[kinds[0]].dtype
    contents = FeatureTable(names, shapes, dtype, lambda i, kind: load(names[i])[kind], failures, settings)
    write_features(file, contents)


def _settings(encoder: VideoEncoder, kinds: Sequence[str], storage: str) -> dict[str, Any]:
    """What the numbers depend on, beside the videos."""
    checksum = 0
    for leaf in jax.tree.leaves(backbone(encoder.model, encoder.params)):
        numbers: Any = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        checksum = zlib.crc32(numbers, checksum)
    config = encoder.model.config.to_dict()
    labels = {name: config.pop(name) for name in ("id2label", "label2id")}
    del labels  # no matter for embeddings
    return {
        "model": encoder.name,
        "weights": f"{checksum:08x}",
        "kinds": list(kinds),
        "dtype": str(jnp.dtype(encoder.model.dtype)),
        "storage": storage,
        "config": json.loads(json.dumps(config)),
        "preprocessing": json.loads(json.dumps(encoder.processor.to_dict())),
    }


def unfinished(file: Path) -> Path:
    """Where finished videos are kept until all are done."""
    return file.with_name(f"{file.name}.unfinished")


def _open_partial(file: Path, settings: dict[str, Any], overwrite: bool) -> Path:
    """The directory of finished videos beside a file, new or of an earlier run with the same settings."""
    partial = unfinished(file)
    notes = partial / "settings.json"
    try:
        known = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if known == settings:
        return partial
    if known is not None and not overwrite:
        raise TimesformerError(
            f"{partial} holds what an unfinished run made with another model or other settings; remove it, or pass "
            "--overwrite to begin anew."
        )
    if known is not None:
        shutil.rmtree(partial)
    with write_atomically(notes) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")
    return partial


def _is_whole(path: Path) -> bool:
    """Whether a finished video's embeddings are there, and were not cut short when the machine went down."""
    try:
        with safe_open(path, "np"):
            return True
    except (OSError, SafetensorError):
        return False


def _key(video: str | PathLike[str], picture_template: str | None) -> str:
    """A name for a video's embeddings, which changes when the video does."""
    path = Path(video)
    state = path.stat() if path.exists() else None
    version = (str(path.absolute()), state and state.st_size, state and state.st_mtime_ns)
    if isinstance(video, FileStream):
        version = (*version, video.number)
    if picture_template is not None:
        version = (*version, picture_template)
    return hashlib.sha256(repr(version).encode()).hexdigest()[:32]
