"""`timesformer visualize`: pictures of what a model attends to in a video."""

import dataclasses
import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..errors import TimesformerError
from ..interpret.choices import METHODS, Method
from ..support.dtypes import DTypeName, enable_x64
from ..support.progress import say, show_progress
from .options import Command, Loading, stream_of


@dataclasses.dataclass(frozen=True)
class Visualize(Command):
    """Draw what a model attends to in a video: pictures, animations and the numbers themselves.

    Attributes:
        video: a video file, or a directory of pictures.
        model: a converted or Transformers directory, a weights file, or a Hub id.
        out: the directory to write to; made if needed.
        picture_template: names of the frames in directories of pictures that hold other series beside them, such as
            img_{:05d}.jpg.
        method: what to draw; everything that the model has when not given. attention: of CLS to the patches of each
            frame. temporal: of a patch to its place in the other frames. rollout: all layers together. relevance: for a
            class, with gradients. embeddings: how alike those of places, and of frames, are.
        layer: of attention and temporal, counted from 0; the mean over all when not given.
        head: of attention and temporal, counted from 0; the mean over all when not given.
        patch: of temporal, its row and column, counted from 0 at the top left; the middle one when not given.
        target: of relevance, the class's name or number; the likeliest when not given.
        size: height and width of the frames in pixels, instead of the checkpoint's; may be a rectangle.
        animation: what the frames in motion are written as.
        dtype: of the computation.
        video_stream: number of the video stream, from 0, of a file that holds several.
        loading: how the checkpoint is loaded.
    """

    video: tyro.conf.Positional[Path]
    model: str
    out: Path
    picture_template: str | None = None
    method: tuple[Method, ...] = ()
    layer: int | None = None
    head: int | None = None
    patch: tuple[int, int] | None = None
    target: Annotated[str | None, tyro.conf.arg(name="class")] = None
    size: tuple[int, int] | None = None
    animation: Literal["gif", "mp4", "none"] = "gif"
    dtype: DTypeName = "float32"
    video_stream: int | None = None
    loading: Annotated[Loading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Loading)

    def run(self) -> int:
        """Writes `METHOD.png`, `METHOD.gif` where frames move, and all numbers to `arrays.npz`."""
        enable_x64(self.dtype)
        with show_progress(f"loading {self.model}"):
            from ..interpret.video_encoder import VideoEncoder

            encoder = VideoEncoder.from_pretrained(
                self.model, dtype=self.dtype, size=self.size, **self.loading.options()
            )
        from ..video.pictures import open_pictures

        methods = self._methods(encoder)
        frames = encoder.read(open_pictures(stream_of(self.video, self.video_stream), self.picture_template))
        self._require_choices(encoder.model.config, frames.shape[1:3])
        target = _class_index(encoder.model.config, self.target) if "relevance" in methods else None
        with show_progress("looking"):
            from ..interpret.choices import Choices
            from ..interpret.pictures import draw

            choices = Choices(self.layer, self.head, self.patch, target)
            suffix = None if self.animation == "none" else self.animation
            files = draw(encoder, frames, self.out, methods, choices, animation=suffix)
        for file in files:
            print(file)
        return 0

    def _methods(self, encoder: Any) -> tuple[Method, ...]:
        """What was asked for, or all that the model has."""
        from ..interpret.methods import missing_methods

        missing = missing_methods(encoder)
        for method in self.method:
            if method in missing:
                raise TimesformerError(f"--method {method} can't be drawn for {self.model}: {missing[method]}.")
        left_out = [f"{method} ({reason})" for method, reason in missing.items()]
        if left_out and not self.method:
            say(f"not drawn: {', '.join(left_out)}")
        return self.method or tuple(method for method in METHODS if method not in missing)

    def _require_choices(self, config: Any, size: tuple[int, ...]) -> None:
        grid = (size[0] // config.patch_shape[0], size[1] // config.patch_shape[1])
        for name, value, count in (
            ("--layer", self.layer, config.num_hidden_layers),
            ("--head", self.head, config.num_attention_heads),
            ("--patch's row", self.patch and self.patch[0], grid[0]),
            ("--patch's column", self.patch and self.patch[1], grid[1]),
        ):
            if value is not None and not 0 <= value < count:
                raise TimesformerError(f"{name} must be from 0 to {count - 1} for this model, not {value}.")


def _class_index(config: Any, target: str | None) -> int | None:
    """The class of this name or number; None for the likeliest."""
    if target is None:
        return None
    if target in config.label2id:
        return config.label2id[target]
    if target.isdecimal() and int(target) < config.num_labels:
        return int(target)
    close = difflib.get_close_matches(target, config.label2id, 3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "`timesformer inspect` shows some of them."
    raise TimesformerError(f"--class {target!r} is none of the model's {config.num_labels} classes; {hint}")
