"""`timesformer features`: embeddings of many videos into one file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..errors import TimesformerError, VideoError
from ..support.dtypes import DTypeName, enable_x64
from ..support.progress import counter, say, show_progress
from .options import Command, Flag, Loading, stream_of

if TYPE_CHECKING:
    from ..interpret.features import FeatureReport
    from ..interpret.video_encoder import VideoEncoder
    from ..video.packets import FileStream


@dataclasses.dataclass(frozen=True)
class Features(Command):
    """Write the embeddings of many videos into one file.

    A run that was killed goes on where it was when it is started again. Exits with 0 when every video was embedded, 1
    when some could not be read, 2 when none could or the input is bad.

    Attributes:
        videos: video files, or directories of pictures.
        model: a converted or Transformers directory, a weights file, or a Hub id.
        out: the file to write: .safetensors, .npz or .parquet.
        listing: a file that names further videos, one a line.
        picture_template: names of the frames in directories of pictures that hold other series beside them, such as
            img_{:05d}.jpg.
        kinds: cls: one of the clip. frames: one of each frame. patches: one of each patch of each frame, 4.8 MB for a
            video of a base model.
        batch_size: videos that are computed together.
        storage: type of the numbers in the file.
        size: height and width of the frames in pixels, instead of the checkpoint's; may be a rectangle.
        dtype: of the computation.
        overwrite: replace an existing file.
        video_stream: number of the video stream, from 0, of files that hold several.
        loading: how the checkpoint is loaded.
    """

    videos: tyro.conf.Positional[tuple[Path, ...]]
    model: str
    out: Path
    listing: Path | None = None
    picture_template: str | None = None
    kinds: tuple[Literal["cls", "frames", "patches"], ...] = ("cls", "frames")
    batch_size: int = 1
    storage: Literal["float32", "float16"] = "float32"
    size: tuple[int, int] | None = None
    dtype: DTypeName = "float32"
    overwrite: Flag = False
    video_stream: int | None = None
    loading: Annotated[Loading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Loading)

    def run(self) -> int:
        """Embeds the videos; a bad one is reported and listed in the file, and the others are embedded."""
        from ..interpret.feature_files import require_writable

        require_writable(self.out, overwrite=self.overwrite)
        videos = [stream_of(video, self.video_stream) for video in (*self.videos, *self._listed())]
        if not videos:
            raise VideoError("no video is given; name at least one file or directory of pictures.")
        enable_x64(self.dtype)
        with show_progress(f"loading {self.model}"):
            from ..interpret.features import unfinished
            from ..interpret.video_encoder import VideoEncoder

            encoder = VideoEncoder.from_pretrained(
                self.model, head=False, dtype=self.dtype, size=self.size, **self.loading.options()
            )
        try:
            report = self._extract(encoder, videos)
        except KeyboardInterrupt:
            say(f"what is finished is kept in {unfinished(self.out)}; the same command goes on there.")
            raise
        if report.resumed:
            say(f"{report.resumed} videos were finished by an earlier run.")
        if report.failures:
            say(f"{len(report.failures)} of {len(videos)} videos could not be read.")
        if report.file is None:
            return 2
        print(report.file)
        return 1 if report.failures else 0

    def _extract(self, encoder: "VideoEncoder", videos: "Sequence[Path | FileStream]") -> "FeatureReport":
        from ..interpret.features import extract_features

        with counter(len(videos), "embedding videos") as done:
            return extract_features(
                encoder,
                videos,
                self.out,
                picture_template=self.picture_template,
                kinds=self.kinds,
                batch_size=self.batch_size,
                storage=self.storage,
                overwrite=self.overwrite,
                done=done,
                failed=lambda _, error: say(str(error)),
            )

    def _listed(self) -> list[Path]:
        if self.listing is None:
            return []
        try:
            lines = self.listing.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise TimesformerError(f"{self.listing} can't be read: {error.strerror or error}.") from None
        except UnicodeDecodeError:
            raise TimesformerError(f"{self.listing} is no text in UTF-8; it must name one video a line.") from None
        return [Path(line.strip()) for line in lines if line.strip()]
