"""Runs the notebooks and writes them with their outputs: `python notebooks/build.py [NAME ...]`.

Each notebook is a pair that jupytext keeps: NAME.py, plain text in the percent format, which is what one edits, and
NAME.ipynb, the same cells with what they gave. Where pyproject.toml names the repository, both begin with a badge that
opens the notebook in Colab, and with a cell that installs the package there.
"""

import os
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("[0-9]*.py"))

COLAB = "colab"
"""Tag of the cells that are made from the repository's URL."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # the same outputs everywhere, whether the Hub can be reached or not
    "JAX_PLATFORMS": "cpu",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm misses its widgets, which no output needs
}
"""Of the notebooks' processes."""


def repository_url(pyproject: Path = HERE.parent / "pyproject.toml") -> str | None:
    """Where the repository is, if pyproject.toml says so."""
    urls = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"].get("urls", {})
    url = {name.lower(): url for name, url in urls.items()}.get("repository")
    return url and url.rstrip("/").removesuffix(".git")


def with_colab(notebook: Any, name: str, url: str | None) -> Any:
    """The notebook with the cells for Colab that belong to a repository's URL; without a URL with none."""
    cells = [cell for cell in notebook.cells if COLAB not in cell.metadata.get("tags", [])]
    if url is not None:
        path = url.removeprefix("https://github.com/")
        link = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb"
        badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"
        install = (
            "import sys\n\n"
            'if "google.colab" in sys.modules:  # anywhere else the package is there already\n'
            f'    get_ipython().run_line_magic("pip", "install --quiet timesformer-jax@git+{url}")'
        )
        metadata = {"metadata": {"tags": [COLAB]}}
        cells[:0] = [nbformat.v4.new_markdown_cell(badge, **metadata), nbformat.v4.new_code_cell(install, **metadata)]
    return nbformat.from_dict(notebook | {"cells": cells})


def read_text(name: str) -> Any:
    """A notebook from its plain text."""
    return jupytext.read(HERE / f"{name}.py")


def execute(notebook: Any) -> Any:
    """Runs all cells from the first to the last, on a CPU without the Hub, in a directory that is removed afterwards.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    with tempfile.TemporaryDirectory() as directory:
        resources = {"metadata": {"path": directory}}
        client = NotebookClient(
            notebook,
            timeout=1800,
            kernel_name="python3",
            resources=resources,
            record_timing=False,
            coalesce_streams=True,
        )
        done = client.execute(env=os.environ | ENVIRONMENT)
        for number, cell in enumerate(done.cells):
            cell["id"] = str(number)  # else new ones each time
            for output in cell.get("outputs", []):
                if output.output_type == "stream":
                    # A run's files are announced with the whole path, which tells nobody anything afterwards.
                    output.text = output.text.replace(f"{Path(directory).resolve()}/", "")
    done.metadata.pop("widgets", None)
    return done


def build(name: str, url: str | None) -> None:
    """Writes both halves of a pair anew."""
    notebook = with_colab(read_text(name), name, url)
    jupytext.write(notebook, HERE / f"{name}.py")
    nbformat.write(execute(notebook), HERE / f"{name}.ipynb")


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        build(name, repository_url())
        print(f"notebooks/{name}.ipynb")
