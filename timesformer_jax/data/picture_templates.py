"""Folders of pictures of which a template names the frames."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from ..video.packets import EncodedVideo
from ..video.picture_series import match_template
from ..video.reading import Pictures
from .videos import Videos


@dataclasses.dataclass(frozen=True, eq=False)
class TemplateVideos(Videos):
    """Videos, of whose folders of pictures a template names the frames.

    Attributes:
        videos: the same without a template.
        template: such as "img_{:05d}.jpg".
    """

    videos: Videos
    template: str

    def open(self, index: int) -> str | EncodedVideo | Pictures:
        """Opens a video for `read_by_rule`."""
        opened = self.videos.open(index)
        if isinstance(opened, str) and Path(opened).is_dir():
            return Pictures.in_folder(opened, self.template)
        return dataclasses.replace(opened, template=self.template) if isinstance(opened, Pictures) else opened


def with_picture_template(videos: Videos, template: str | None) -> Videos:
    """The same videos, but that a template, if there is one, names the pictures; their fingerprint covers it.

    Raises:
        ConfigError: the template has no field for a number, or several.
    """
    if template is None:
        return videos
    match_template(template, ())
    own: dict[str, Any] = {field.name: getattr(videos, field.name) for field in dataclasses.fields(Videos)}
    own["fingerprint"] = hashlib.sha256(f"{videos.fingerprint} {template}".encode()).hexdigest()[:16]
    return TemplateVideos(**own, videos=videos, template=template)
