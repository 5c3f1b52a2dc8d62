"""`timesformer pack`: many small videos into few large files."""

import dataclasses
from pathlib import Path

import tyro

from ..errors import DataError
from ..support.progress import counter, say
from .options import Command


@dataclasses.dataclass(frozen=True)
class Pack(Command):
    """Pack videos into ArrayRecord shards that training reads fast, also from network storage.

    When it was stopped, the same command goes on with the first shard that is not complete.

    Attributes:
        source: what training reads: a list, a folder of class folders, WebDataset shards,
            or a Hugging Face data set.
        folder: where the shards and manifest.json go.
        root: folder that the paths in a list are relative to; that of the list when not given.
        classes: file of class names, one a line or JSON.
        split: the split whose rows are packed, where a list has several.
        video_template: what the files are called, by the columns of a list that names no files.
        picture_template: names of the frames in folders of pictures that hold other series beside them, such as
            img_{:05d}.jpg.
        shards: number of files; one for each 500 videos when not given.
        threads: shards that are written at the same time.
    """

    source: tyro.conf.Positional[str]
    folder: tyro.conf.Positional[Path]
    root: str | None = None
    classes: str | None = None
    split: str | None = None
    video_template: str | None = None
    picture_template: str | None = None
    shards: int | None = None
    threads: int = 4

    def run(self) -> int:
        """Packs, and names what was left out, which is no failure."""
        from ..data.lists.listing import Choice
        from ..data.packing import pack
        from ..data.picture_templates import with_picture_template
        from ..data.sources import read_videos

        if self.threads < 1:
            raise DataError(f"--threads must be 1 or more, not {self.threads}.")
        choice = Choice(split=self.split, template=self.video_template)
        videos = read_videos(self.source, root=self.root, classes=self.classes, choice=choice)
        videos = with_picture_template(videos, self.picture_template)
        shards = -(-videos.files // 500) if self.shards is None else self.shards
        with counter(len(videos), "packing") as progress:
            packing = pack(videos, self.folder, shards=shards, threads=self.threads, progress=progress)
        for name in packing.left_out:
            say(f"left out: {name}")
        say(f"{packing.videos} videos in {packing.shards} shards in {self.folder}; {len(packing.left_out)} left out.")
        return 0
