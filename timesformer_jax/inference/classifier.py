"""Videos to labels: a model, its parameters and its preprocessing behind one call."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Float, UInt8

from ..checkpoints.hub import HubOptions
from ..checkpoints.mapping import Params
from ..checkpoints.open import open_checkpoint, processor_for, published_processor
from ..checkpoints.source import Source
from ..errors import VideoError
from ..model.embeddings import check_pixel_values
from ..model.modeling import TimesformerForVideoClassification
from ..support.dtypes import require_x64
from ..support.prefetch import batched, prefetch, prefetch_map
from ..video.processing import VideoProcessor
from ..video.reading import Pictures, Video, clip_rule, read_by_rule, read_clip, say_short
from ..video.sampling import REFERENCE_FPS, SlidingWindows, spread_clips
from ..video.streaming import stream_clips
from .batching import Forward, Variables, Weights, compile_ahead
from .folding import inference_module
from .loading import clip_shape, folded_variables, in_background, processor_to_fold
from .predictions import Answer, LongAnswer, Prediction, WindowAnswer, best_predictions, no_answer

WORKERS = 2
"""Threads that prefetch videos. Decoding and resizing release Python's lock: two threads are twice as fast."""


@dataclasses.dataclass(frozen=True)
class VideoClassifier:
    """Classifies videos: `classify("video.mp4")`.

    Attributes:
        model: the Flax module. (Its parameters are folded into those of `forward` by `folding`.)
        processor: how frames become pixel values.
        forward: from clips to logits.
    """

    model: TimesformerForVideoClassification
    processor: VideoProcessor
    forward: Forward = dataclasses.field(repr=False)

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str] | Source,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike | None = None,
        precision: jax.lax.PrecisionLike = None,
        weights: Weights = "float",
        batch_size: int | None = None,
        processor: VideoProcessor | str | PathLike[str] | None = None,
        mesh: Mesh | None = None,
        hub: HubOptions | None = None,
        wait: bool = True,
        **overrides: Any,
    ) -> "VideoClassifier":
        """A classifier from a checkpoint, with the preprocessing that it was trained with.

        Args:
            source: as for `TimesformerForVideoClassification.from_pretrained`, as are dtype, param_dtype and precision.
            dtype: of the computation and of the parameters that are kept.
            param_dtype: the parameters are rounded to it when they are read; None keeps the file's own.
            precision: of matrix products.
            weights: "int8" keeps kernels in eight bits (`quantization`).
            batch_size: clips on the devices together, at most; None is 1 on a CPU and 8 elsewhere, for each device.
            processor: a preprocessing, or the file that tells it, instead of the checkpoint's own; a checkpoint without
                any gets that of the published TimeSformer models at the config's image size. A given `image_size` is
                that of the preprocessing, too.
            mesh: devices that share the work (`sharding.make_mesh`); None is one device.
            hub: how to reach the Hub.
            wait: whether to wait for the weights; otherwise they are read, and the model compiled, while the caller
                goes on, and the first use waits (and raises what they raise).
            **overrides: other arguments of `load_checkpoint`: config fields to change, `labels`, `channel_order`.

        Raises:
            CheckpointError: the checkpoint can't be loaded, or its channel order is not known and not given.
            ConfigError: its config or its preprocessing can't be used, or float64 is asked for while jax_enable_x64 is
                off.
        """
        require_x64(dtype, param_dtype)
        storage = None if param_dtype is None else np.dtype(jnp.dtype(param_dtype))
        opened = open_checkpoint(source, head=True, dtype=storage, hub=hub, processor=processor, **overrides)
        processor = processor_for(opened)
        stored = storage or np.dtype(jnp.dtype(dtype))
        model = TimesformerForVideoClassification(opened.config, dtype=dtype, param_dtype=stored, precision=precision)
        folded_processor = processor_to_fold(model, processor)

        def read() -> Variables:
            params = opened.read().params
            require_x64(*{leaf.dtype for leaf in jax.tree.leaves(params)})
            return folded_variables(model, params, folded_processor, weights, in_place=True)

        module = inference_module(model, folded_processor)
        variables = in_background(read)
        shape = clip_shape(model, processor)
        if not wait and shape is not None:
            compile_ahead(module, weights, shape, mesh)
        return cls(model, processor, Forward(module, variables.result() if wait else variables, batch_size, mesh))

    @classmethod
    def from_model(
        cls,
        model: TimesformerForVideoClassification,
        params: Params,
        processor: VideoProcessor | None = None,
        *,
        weights: Weights = "float",
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ) -> "VideoClassifier":
        """A classifier from a model in memory, whose parameters are left as they are.

        Args:
            model: the Flax module.
            params: its parameters.
            processor: how frames become pixel values; None is that of the published models, at the model's size.
            weights: as for `from_pretrained`.
            batch_size: as for `from_pretrained`.
            mesh: as for `from_pretrained`.
        """
        processor = processor or published_processor(model.config)
        folded = processor_to_fold(model, processor)
        variables = folded_variables(model, params, folded, weights, in_place=False)
        return cls(model, processor, Forward(inference_module(model, folded), variables, batch_size, mesh))

    @property
    def sampling(self) -> str:
        """Says which frames of a video are used."""
        config = self.model.config
        match config.sampling_rate:
            case None:
                return f"{config.num_frames} frames spread evenly over the video (the training's sampling is not known)"
            case "segments":
                return f"{config.num_frames} frames, one from each equal part of the video"
            case rate:
                return f"the middle {config.num_frames} x {rate:g} frames at 30 frames per second"

    @property
    def _rate(self) -> float | None:
        rate = self.model.config.sampling_rate
        return None if isinstance(rate, str) else rate

    def read(self, video: Video) -> UInt8[np.ndarray, "t height width 3"]:
        """Reads the clip of a video that the model classifies, as `sampling` says.

        Raises:
            VideoError: the video can't be read.
        """
        return read_clip(video, self.model.config.num_frames, sampling_rate=self._rate)

    def prepare(self, frames: UInt8[np.ndarray, "t h w 3"]) -> np.ndarray:
        """Resizes and crops the uint8 frames of a clip for the forward pass (in float64, to pixel values).

        Raises:
            VideoError: the preprocessing gives the clip a size that patches don't divide.
        """
        frames = self.processor.resize_and_crop(frames)
        check_pixel_values(frames[None], self.model.config, uint8=True)
        if self.forward.module.pixel_centre is None:
            return self.processor.rescale_and_normalize(frames)
        return frames

    def _read_clips(self, video: Video, clips: int) -> np.ndarray:
        """Reads and prepares the clips of a video, (clips, t, h, w, 3)."""
        rate, num_frames = self._rate, self.model.config.num_frames
        if clips == 1:
            rule = clip_rule(num_frames, rate)
            return read_by_rule(video, rule, prepare=self._prepare_frame, said_of=(num_frames, rate))[None]
        if rate is None:
            raise VideoError(
                "several clips of a video need the training's sampling rate, which this checkpoint does not tell: "
                "give sampling_rate."
            )
        return read_by_rule(
            video,
            lambda total, fps: spread_clips(total, fps, num_frames, rate, clips),
            prepare=self._prepare_frame,
            said_of=(num_frames, rate),
        )

    def _prepare_frame(self, frame: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
        return self.prepare(frame[None])[0]

    def logits(self, videos: Video | Sequence[Video], *, clips: int = 1) -> Float[np.ndarray, "b labels"]:
        """Gives the logits of videos, one row for each.

        Args:
            videos: as in a call.
            clips: as in a call.

        Raises:
            VideoError: a video can't be read, or the model's scores for it are not finite.
        """
        listed = [videos] if isinstance(videos, str | PathLike | np.ndarray | Pictures) else videos
        rows: list[np.ndarray] = []
        for _, logits in self._each(listed, clips):
            if isinstance(logits, VideoError):
                raise logits
            rows.append(logits)
        return np.stack(rows)

    @overload  # a str is a Sequence, too, and the first of the two that fits counts
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, videos: Video, *, top_k: int = 5, clips: int = 1
    ) -> list[Prediction]: ...
    @overload
    def __call__(self, videos: Sequence[Video], *, top_k: int = 5, clips: int = 1) -> list[list[Prediction]]: ...
    def __call__(
        self, videos: Video | Sequence[Video], *, top_k: int = 5, clips: int = 1
    ) -> list[Prediction] | list[list[Prediction]]:
        """Gives the likeliest classes of a video, best first; a list of them for each of several videos.

        Args:
            videos: a file, a directory of pictures or an array of frames; or several of these.
            top_k: how many classes; all of them where the model has fewer.
            clips: how many clips of each video, spread over it, whose logits are averaged.

        Raises:
            VideoError: a video can't be read, or the model's scores for it are not finite. (`answers` goes on to the
                others.)
        """
        rows = [best_predictions(row, self.model.config, top_k) for row in self.logits(videos, clips=clips)]
        return rows[0] if isinstance(videos, str | PathLike | np.ndarray | Pictures) else rows

    def answers(self, videos: Iterable[Video], *, top_k: int = 5, clips: int = 1) -> Iterator[Answer]:
        """Classifies many videos in order; the next ones are prefetched while the device computes.

        Args:
            videos: any number of them; no more are asked for than are prefetched.
            top_k: as in a call.
            clips: as in a call.

        Yields:
            An answer for each video; one that can't be read does not stop the others.
        """
        for video, logits in self._each(videos, clips):
            if isinstance(logits, VideoError):
                yield Answer(video, [], logits)
            else:
                yield Answer(video, best_predictions(logits, self.model.config, top_k))

    def windows(
        self,
        video: Video,
        *,
        overlap: float = 0.0,
        seconds: float | None = None,
        top_k: int = 5,
        progress: Callable[[int, int], None] | None = None,
    ) -> LongAnswer:
        """Classifies sliding windows over a whole video, which is decoded once; only the windows in hand are in memory.

        Args:
            video: as in a call.
            overlap: share of a window that the next one covers again.
            seconds: length of a window at the video's mean frame rate; None is that of the clips which the model was
                trained on. Windows have one number of frames, so that they last longer where frames are fewer.
            top_k: as in a call.
            progress: is told how many windows are done, and of how many.

        Raises:
            VideoError: the video can't be read, the length of a window is not known, or the model's scores are not
                finite.
        """
        num_frames, rate = self.model.config.num_frames, self._rate
        if seconds is not None:
            rate = seconds * REFERENCE_FPS / num_frames
        if rate is None:
            raise VideoError("the length of the training's clips is not known: give the seconds of a window.")
        plan = SlidingWindows(num_frames, rate, overlap)
        lengths: list[tuple[int, float | None]] = []
        times: list[np.ndarray] = []

        def rule(total: int, fps: float | None) -> np.ndarray:
            lengths.append((total, fps))
            return plan.indices(total, fps)

        rows: list[np.ndarray] = []
        clips = stream_clips(video, rule, self._prepare_frame, times.append)
        for batch in prefetch(batched(clips, self.forward.batch_size)):
            rows += list(self.forward(np.stack(batch)))
            if progress is not None:
                progress(len(rows), len(plan.starts(*lengths[-1])))
        say_short(video, *lengths[-1], num_frames, rate)
        error = no_answer(video, np.stack(rows))
        if error is not None:
            raise error
        config = self.model.config
        answers = [
            WindowAnswer(start, end, best_predictions(row, config, top_k), row)
            for (start, end), row in zip(plan.seconds(times[-1], lengths[-1][1]), rows, strict=True)
        ]
        return LongAnswer(best_predictions(np.mean(rows, axis=0), config, top_k), answers)

    def _each(self, videos: Iterable[Video], clips: int) -> Iterator[tuple[Video, np.ndarray | VideoError]]:
        """Yields each video with its logits, or with what is wrong with it."""
        if clips < 1:
            raise VideoError(f"{clips} clips of a video were asked for: ask for at least one.")

        def read(video: Video) -> np.ndarray | VideoError:
            try:
                return self._read_clips(video, clips)
            except VideoError as error:
                return error

        waiting: list[tuple[Video, np.ndarray | VideoError]] = []
        for item in prefetch_map(videos, read, WORKERS, most=2 * self.forward.batch_size):
            waiting.append(item)
            if sum(isinstance(found, np.ndarray) for _, found in waiting) * clips >= self.forward.batch_size:
                yield from self._compute(waiting)
                waiting = []
        yield from self._compute(waiting)

    def _compute(
        self, read: Sequence[tuple[Video, np.ndarray | VideoError]]
    ) -> Iterator[tuple[Video, np.ndarray | VideoError]]:
        """Yields the mean logits of each video's clips; clips of one size go through the model together."""
        found = [clips for _, clips in read if isinstance(clips, np.ndarray)]
        rows: list[np.ndarray] = []
        for _, group in itertools.groupby(found, key=lambda clips: clips.shape):
            together = list(group)
            logits = self.forward(np.concatenate(together))
            rows += [part.mean(axis=0) for part in np.split(logits, len(together))]
        remaining = iter(rows)
        for video, clips in read:
            if isinstance(clips, VideoError):
                yield video, clips
            else:
                logits = next(remaining)
                yield video, no_answer(video, logits) or logits
