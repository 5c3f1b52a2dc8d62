"""Builds the documentation's site from the repository: `python docs/build_site.py` writes build/site.

Its pages are docs/*.md, the README as the first one, CHANGELOG and CONTRIBUTING, and the notebooks with their outputs.
Links between them are written as the repository needs them. What is linked to and is no page (scripts, the license)
comes along as a file. A link that leads nowhere, and whatever else Zensical complains of, is an error.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import latex2mathml.converter
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "pages"

_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_FORMULA = re.compile(r"\$([^$\n]+)\$")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def sources() -> dict[Path, Path]:
    """The files that pages are made from, and the pages' places in the site."""
    pages = {path: Path(path.name) for path in (ROOT / "docs").glob("*.md")}
    pages |= {ROOT / name: Path(name) for name in ("CHANGELOG.md", "CONTRIBUTING.md")}
    pages |= {path: Path("notebooks", f"{path.stem}.md") for path in (ROOT / "notebooks").glob("*.ipynb")}
    return pages | {ROOT / "README.md": Path("index.md")}


def relink(
    text: str, source: Path, pages: dict[Path, Path], made: Collection[str] = ()
) -> tuple[str, dict[Path, Path]]:
    """A page with its links as the site needs them, and the files that have to come along.

    Args:
        text: of the page.
        source: the file that it was made from.
        pages: see `sources`.
        made: names of pictures that lie beside the page, and nowhere in the repository.

    Raises:
        SystemExit: a link leads nowhere.
    """
    files: dict[Path, Path] = {}
    up = "../" * (len(pages[source].parts) - 1)

    def target(match: re.Match[str]) -> str:
        opening, link, rest = match.groups()
        if ":" in link or link in made:
            return match.group()
        path = (source.parent / link).resolve()
        if not path.is_file() or not path.is_relative_to(ROOT):
            raise SystemExit(f"{source.relative_to(ROOT)} links to {link}, which is no file of the repository.")
        if path not in pages:
            files[path] = path.relative_to(ROOT / "docs" if path.is_relative_to(ROOT / "docs") else ROOT)
        return f"{opening}{up}{(pages | files)[path].as_posix()}{rest}"

    # Between pieces of code, which may look like links and formulas.
    parts = _CODE.split(text)
    parts[::2] = [_FORMULA.sub(mathml, _LINK.sub(target, part)) for part in parts[::2]]
    return "".join(parts), files


def mathml(match: re.Match[str]) -> str:
    """A formula as browsers show it by themselves."""
    return f"<span>{latex2mathml.converter.convert(match[1])}</span>"  # within a line, not a block of its own


def read(source: Path) -> tuple[str, dict[str, bytes]]:
    """The text of a page, and the pictures in it: a notebook's outputs."""
    if source.suffix != ".ipynb":
        return source.read_text(encoding="utf-8"), {}
    text, resources = MarkdownExporter().from_filename(str(source), {"unique_key": source.stem})
    return text.replace("![png](", "![what the cell above shows]("), resources["outputs"]


def collect(directory: Path) -> None:
    """Writes all pages and the files that belong to them."""
    pages = sources()
    for source, place in pages.items():
        destination = directory / place
        destination.parent.mkdir(parents=True, exist_ok=True)
        text, pictures = read(source)
        for name, content in pictures.items():
            (destination.parent / name).write_bytes(content)
        text, files = relink(text, source, pages, pictures)
        destination.write_text(text, encoding="utf-8")
        for file, place_of_file in files.items():
            (directory / place_of_file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, directory / place_of_file)


def main() -> None:
    """Collects and builds."""
    shutil.rmtree(PAGES.parent, ignore_errors=True)
    collect(PAGES)
    build = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    sys.exit(subprocess.run(build, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
