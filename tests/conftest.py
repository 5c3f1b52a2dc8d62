"""Settings for all tests: shapes checked while they run, no network, double precision for those that ask for it."""

import os
import re
from collections.abc import Callable, Generator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # commands would fill the user's

import jax
import pytest
from jaxtyping import install_import_hook

# Every module whose signatures state array shapes, but for those that check for themselves what users hand in and
# promise an error of their own, and the outputs, which JAX fills with all sorts of things.
UNCHECKED = ("checkpoints", "model/outputs", "training/state", "video/processing")

PACKAGE = Path(__file__).parents[1] / "timesformer_jax"
CHECKED = [
    "timesformer_jax." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if "from jaxtyping import" in path.read_text() and not str(path.relative_to(PACKAGE)).startswith(UNCHECKED)
]
# An int is a float here, as PEP 484 has it and pyright reads it.
install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture
def x64() -> Generator[None]:
    """Double precision for one test (or, as `pytest.mark.usefixtures("x64")`, for a class or a file).

    A scoped setting of JAX's, not the global switch: tests in default precision may run before and after.
    """
    with jax.enable_x64(True):
        yield


@pytest.fixture
def quick_compile() -> Generator[None]:
    """Unoptimised code for one test: a tiny model takes longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def compilations(caplog: pytest.LogCaptureFixture) -> Generator[Callable[[], list[str]]]:
    """A function that gives the names of the programs that this thread compiled since its last call."""

    def names() -> list[str]:
        found = re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
        caplog.clear()
        return found

    with jax.log_compiles():
        yield names
