"""The Python in docs/visualization.md and docs/features.md runs as printed, and does what it says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from tiny_flax import tiny_flax
from videos import moving_pictures, write_video

pytestmark = pytest.mark.usefixtures("quick_compile")

DOCS = Path(__file__).parent.parent / "docs"


def run_python(page: str) -> dict[str, Any]:
    """Runs the page's Python from top to bottom with a tiny checkpoint instead of the published one."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks, page
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("facebook/timesformer-base-finetuned-k400", "checkpoint"), names)
    return names


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model, params = tiny_flax("divided_space_time", dtype=np.float32)
    model.save_pretrained(tmp_path / "checkpoint", params)
    (tmp_path / "videos").mkdir()
    for name, seed in (("first", 0), ("second", 1), ("third", 2)):
        write_video(tmp_path / "videos" / f"{name}.mp4", moving_pictures(9, seed=seed))
    # The first once more, brighter: its nearest neighbour.
    write_video(tmp_path / "videos" / "twin.mp4", moving_pictures(9, seed=0) + np.uint8(1))
    write_video(tmp_path / "video.mp4", moving_pictures(9))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_visualization(directory: Path) -> None:
    names = run_python("visualization.md")
    assert isinstance(names["figure"], Figure)
    names["save_figure"](names["figure"], directory / "rollout.png")
    assert (directory / "rollout.png").stat().st_size > 10_000


def test_nearest_neighbours(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_python("features.md")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"videos/first.mp4 is most like videos/twin.mp4 \(\d\.\d\d\)", lines[0])
    assert "videos/twin.mp4 is most like videos/first.mp4" in lines[3]
