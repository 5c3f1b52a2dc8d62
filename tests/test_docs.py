"""The documentation does what it says: its code runs as printed, what it names exists, and its site builds.

The Python of a page runs from top to bottom in one namespace, its bash blocks in shells that stop at the first failure.
Both run where the names that the pages use stand for tiny things: the published checkpoint, an ImageNet ViT, videos,
lists of them. A block that can't run says why, above it: `<!-- skip: next "reason" -->`. What docs/extending.md adds to
the package runs on a copy of it that its diffs are applied to.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from tiny_flax import tiny_flax
from videos import moving_pictures, write_video

from timesformer_jax import VideoProcessor
from timesformer_jax.data.motion import MotionTask, motion_clip, write_keyframes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PUBLISHED, VIT = "facebook/timesformer-base-finetuned-k400", "google/vit-base-patch16-224-in21k"

EXTENDING = ROOT / "docs" / "extending.md"
EXTENDED_FILES = {"An attention scheme": 4, "A checkpoint format": 2, "An augmentation": 2, "A command": 2}
"""How many files each extension may touch."""

LONG_PYTHON = ("README.md", "converting.md", "inference.md", "training.md")
"""Pages whose Python compiles many programs, or trains."""


def run_bash(commands: str) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # tiny models take longer to compile than to run
    }
    command = ["bash", "-e", "-o", "pipefail", "-c", commands]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{commands}{result.stdout}{result.stderr}"


LANGUAGES = {"python": PythonEvaluator(), "bash": lambda example: run_bash(str(example.parsed))}


def blocks(page: Path, language: str) -> list[Example]:
    """The blocks of a page in one language; among them stand the directives to skip one."""
    others = [CodeBlockParser(name, lambda _: None) for name in LANGUAGES if name != language]
    return list(Sybil([SkipParser(), *others, CodeBlockParser(language, LANGUAGES[language])]).parse(page))


def run(page: Path, language: str) -> None:
    """Runs the blocks of a page but those that it says to skip."""
    for block in blocks(page, language):
        try:
            block.evaluate()
        except SkipTest:  # `test_skipped_blocks` shows the reason
            continue


def pages_with(language: str) -> list[Path]:
    pages = [page for page in PAGES if page != EXTENDING]
    return [page for page in pages if f"```{language}\n" in page.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with everything that the pages name."""
    transformers = pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp("docs")
    model, params = tiny_flax("divided_space_time", dtype=np.float32, image_size=32, patch_size=8, num_frames=8)
    processor = VideoProcessor(size=32, crop_size=(32, 32))
    model.save_pretrained(directory / PUBLISHED, params, processor=processor)
    vit = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40
    )
    transformers.ViTModel(vit, add_pooling_layer=False).save_pretrained(directory / VIT)

    names = ["video", "film", "a", "b", *(f"clips/{c}/{i}" for c in ("jump", "run") for i in range(2))]
    names += [f"k400/{i}" for i in range(4)] + ["videos/first", "videos/second", "videos/third"]
    for seed, name in enumerate(names):
        path = directory / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_pictures(600 if name == "film" else 24, seed=seed))
    # One of the videos once more, brighter: its nearest neighbour.
    write_video(directory / "videos" / "twin.mp4", moving_pictures(24, seed=names.index("videos/first")) + np.uint8(1))
    for name in ("train", "val"):
        (directory / "k400" / f"{name}.csv").write_text("".join(f"{i}.mp4 {i}\n" for i in range(4)))
    save_what_other_trainings_leave(directory)
    demo = directory / "timesformer-demo" / "videos" / "test" / "up-right"
    demo.mkdir(parents=True)
    write_keyframes(demo / "00006.mp4", motion_clip(MotionTask(), seed=0, split="test", number=6)[0])
    return directory


def save_what_other_trainings_leave(directory: Path) -> None:
    """Checkpoints for docs/converting.md: of Lightning, of Transformers' Trainer and of mmaction2."""
    import torch
    from mmaction2_checkpoints import save_mmaction2, tiny_recognizer
    from safetensors.torch import load_file

    (directory / "lightning").mkdir()
    state = load_file(directory / PUBLISHED / "model.safetensors")
    state = {f"model._orig_mod.{name}": tensor for name, tensor in state.items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5.1"}, directory / "lightning" / "last.ckpt")
    for step in (100, 200):
        checkpoint = shutil.copytree(directory / PUBLISHED, directory / "trainer-output" / f"checkpoint-{step}")
        best = json.dumps({"best_model_checkpoint": "trainer-output/checkpoint-100"})
        (Path(checkpoint) / "trainer_state.json").write_text(best)
    model = tiny_recognizer(torch.float32, img_size=(8, 8))
    save_mmaction2(directory / "timesformer_divST_8xb8-8x32x1-15e_kinetics400-rgb.pth", model)


@pytest.fixture
def elsewhere(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of it, to work in."""
    shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.usefixtures("quick_compile", "elsewhere")
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow if p.name in LONG_PYTHON else ()) for p in pages_with("python")],
    ids=lambda page: page.name,
)
def test_python(page: Path) -> None:
    run(page, "python")


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("page", pages_with("bash"), ids=lambda page: page.name)
def test_commands(page: Path) -> None:
    run(page, "bash")


def extension(heading: str, directory: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Applies the diffs of a section of docs/extending.md to a copy of the package.

    Returns:
        The files that the diffs touch, and the section's other blocks with their languages.
    """
    (section,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", EXTENDING.read_text(encoding="utf-8"), re.S | re.M)
    fenced = re.findall(r"^```(\w+)\n(.*?)^```$", section, re.S | re.M)
    diff = "".join(text for language, text in fenced if language == "diff")
    shutil.copytree(
        ROOT / "timesformer_jax", directory / "timesformer_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    apply = ["git", "apply", "--whitespace=error-all", "-"]
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(directory.parent)}  # of any repository
    result = subprocess.run(apply, cwd=directory, input=diff, env=outside, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"the diff of '{heading}' fits the package no more: {result.stderr}"
    files = re.findall(r"^diff --git a/(\S+)", diff, re.M)
    return files, [(language, text) for language, text in fenced if language != "diff"]


@pytest.mark.parametrize("heading", EXTENDED_FILES)
def test_extensions_fit_the_package_and_touch_few_files(heading: str, tmp_path: Path) -> None:
    files, _ = extension(heading, tmp_path)
    assert 0 < len(files) <= EXTENDED_FILES[heading], files


@pytest.mark.slow
@pytest.mark.parametrize("heading", EXTENDED_FILES)
def test_extensions(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of each section run on the package with its diffs."""
    _, others = extension(heading, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for language, text in others:
        command = f"{shlex.quote(sys.executable)} - <<'END'\n{text}END\n" if language == "python" else text
        run_bash(command)


@pytest.mark.usefixtures("quick_compile", "elsewhere")
def test_the_nearest_neighbour_is_the_twin(capsys: pytest.CaptureFixture[str]) -> None:
    run(ROOT / "docs" / "features.md", "python")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"videos/first.mp4 is most like videos/twin.mp4 \(\d\.\d\d\)", lines[0])


SKIPS = [
    (page, number, reason)
    for page in PAGES
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
    for reason in re.findall(r"<!-- skip: next(.*)-->", line)
]


@pytest.mark.parametrize(("page", "line", "reason"), SKIPS, ids=[f"{p.name}-{line}" for p, line, _ in SKIPS])
def test_skipped_blocks(page: Path, line: int, reason: str) -> None:
    """Shows what is not run, and why."""
    assert re.fullmatch(r' "[^"]{10,}" ', reason), f"{page}:{line} does not say why the block is skipped"
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[line] in ("```bash", "```python"), f"{page}:{line} is not above a block"
    pytest.skip(f"{page.name}:{line}: {reason.strip()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_its_language(page: Path) -> None:
    """Else it would be neither run nor skipped with a reason."""
    fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences[::2]) <= {"python", "bash", "text"} | ({"diff"} if page == EXTENDING else set())
    assert set(fences[1::2]) <= {""}


def test_tests_and_scripts_that_pages_name_exist() -> None:
    missing: list[str] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for file, test in re.findall(r"((?:tests|benchmarks|launch)/[\w/]+\.(?:py|sh|yaml))((?:::\w+)*)", text):
            source = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
            if not source or any(not re.search(rf"(?:def|class) {name}\b", source) for name in test.split("::")[1:]):
                missing.append(f"{page.name}: {file}{test}")
    assert not missing


def test_every_page_is_in_the_sites_menu() -> None:
    def files(menu: object) -> list[str]:
        if isinstance(menu, str):
            return [menu]
        return [file for entry in (menu.values() if isinstance(menu, dict) else menu) for file in files(entry)]  # type: ignore[union-attr]

    named = files(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"])
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} | {"index.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    pages |= {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(named) == pages, "zensical.toml's nav and the pages in docs/ and notebooks/ must agree"
    assert len(named) == len(set(named))


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    """Strictly: a link that leads nowhere, or a name that the interface does not have, is an error."""
    pytest.importorskip("zensical", reason="the site is built with the `docs` extra")
    for name in ("docs", "notebooks", "benchmarks", "launch", "timesformer_jax"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy(path, tmp_path)
    shutil.copy(ROOT / "LICENSE", tmp_path)
    build = [sys.executable, str(tmp_path / "docs" / "build_site.py")]
    result = subprocess.run(build, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "build" / "site" / "api" / "index.html").read_text(encoding="utf-8").count("softmax_attention")

    page = tmp_path / "docs" / "faq.md"
    for wrong in ("[a page](nowhere.md)", "[a heading](training.md#nowhere)", "[a script](../benchmarks/nowhere.py)"):
        text = page.read_text(encoding="utf-8")
        page.write_text(f"{text}\n{wrong}\n", encoding="utf-8")
        assert subprocess.run(build, capture_output=True, check=False).returncode != 0, wrong
        page.write_text(text, encoding="utf-8")
