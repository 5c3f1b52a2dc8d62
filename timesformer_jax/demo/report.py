"""The demo's page in a single file: the training, the accuracy and the explanation of one video."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..support.files import write_atomically

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; } img { max-width: 100%; height: auto; }
.figures { display: flex; gap: 1rem; flex-wrap: wrap; padding: 0; }
.figures li { list-style: none; background: #eef3f9; border-radius: 8px; padding: .7rem 1.1rem; }
.figures b { display: block; font-size: 1.6rem; color: #2a6fbb; }
code, pre { background: #f3f3f3; border-radius: 4px; padding: .1rem .3rem; } pre { padding: .7rem; overflow-x: auto; }
"""


def write_page(
    path: Path,
    title: str,
    introduction: str,
    figures: Mapping[str, str],
    sections: Sequence[tuple[str, str, bytes | None]],
    command: str,
) -> None:
    """Writes an HTML page with its pictures inside.

    Args:
        path: of the page.
        title: of the page.
        introduction: the first paragraph.
        figures: numbers, as they are shown, and what they are.
        sections: heading, text and picture (a PNG) of each.
        command: to go on with.
    """
    numbers = "".join(f"<li><b>{html.escape(value)}</b>{html.escape(name)}</li>" for name, value in figures.items())
    body = "".join(
        f"<h2>{html.escape(heading)}</h2><p>{html.escape(text)}</p>" + (_picture(png, heading) if png else "")
        for heading, text, png in sections
    )
    page = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f'<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p><ul class="figures">{numbers}</ul>{body}'
        f"<h2>Going on</h2><pre>{html.escape(command)}</pre></body></html>\n"
    )
    with write_atomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def png_of(figure: Figure) -> bytes:
    """The PNG of a figure."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"format": "png", "dpi": 110}
    figure.savefig(buffer, **options)
    return buffer.getvalue()


def _picture(png: bytes, name: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(name, quote=True)}" src="data:image/png;base64,{data}">'
