"""The notebooks: both halves of each pair say the same, the outputs are fit to be seen, and all cells run offline."""

import base64
import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

for _library in ("jupytext", "nbclient", "nbformat", "ipykernel"):
    pytest.importorskip(_library, reason="notebooks are made with the `docs` extra")

import nbformat  # noqa: E402

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.py"))


def load_build() -> ModuleType:
    specification = importlib.util.spec_from_file_location("build_notebooks", NOTEBOOKS / "build.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


build = load_build()


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def cells(notebook: Any) -> list[tuple[str, str, Any]]:
    return [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in notebook.cells]


def outputs(name: str) -> list[Any]:
    return [output for cell in read(name).cells for output in cell.get("outputs", [])]


def test_each_notebook_is_a_pair() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES
    assert len(NAMES) == 5


@pytest.mark.parametrize("name", NAMES)
class TestCommitted:
    def test_halves_agree(self, name: str) -> None:
        assert cells(build.read_text(name)) == cells(read(name)), f"run python notebooks/build.py {name}"

    def test_it_was_run_from_start_to_end(self, name: str) -> None:
        counts = [cell.execution_count for cell in read(name).cells if cell.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1))

    def test_outputs_hold_no_error_and_no_path_of_a_machine(self, name: str) -> None:
        for output in outputs(name):
            assert output.output_type != "error"
            # Pictures are not text.
            text = str({key: value for key, value in output.get("data", {}).items() if not key.startswith("image/")})
            text += output.get("text", "")
            assert not re.search(r"(/home/|/tmp/|/root/|/usr/|/work/|/Users/|site-packages|[A-Z]:\\)", text), text
            assert not re.search(r"Traceback|[A-Za-z]*Warning\b", text), text

    def test_it_is_small_and_has_pictures(self, name: str) -> None:
        assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < 1_000_000
        pictures = [output.data["image/png"] for output in outputs(name) if "image/png" in output.get("data", {})]
        assert pictures
        for encoded in pictures:
            picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L"))
            assert picture.std() > 5, "an empty picture"

    def test_the_cells_for_colab_belong_to_the_repository(self, name: str) -> None:
        wanted = build.with_colab(build.read_text(name), name, build.repository_url())
        assert cells(wanted) == cells(build.read_text(name)), f"run python notebooks/build.py {name}"


def test_colab_comes_and_goes_with_the_url(tmp_path: Path) -> None:
    name = NAMES[0]
    plain = build.with_colab(build.read_text(name), name, None)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[project.urls]\nRepository = "https://github.com/someone/timesformer_jax.git"\n'
    )
    url = build.repository_url(tmp_path / "pyproject.toml")
    assert url == "https://github.com/someone/timesformer_jax"
    badged = build.with_colab(plain, name, url)
    kind, source, _ = cells(badged)[0]
    assert kind == "markdown"
    assert f"colab.research.google.com/github/someone/timesformer_jax/blob/main/notebooks/{name}.ipynb" in source
    assert "git+https://github.com/someone/timesformer_jax" in cells(badged)[1][1]
    assert cells(build.with_colab(badged, name, url)) == cells(badged)
    assert cells(build.with_colab(badged, name, None)) == cells(plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str) -> None:
    if "import torch" in (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8"):
        pytest.importorskip("torch")
    done = build.execute(build.read_text(name))
    assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code")
    assert any("image/png" in output.get("data", {}) for cell in done.cells for output in cell.get("outputs", []))
