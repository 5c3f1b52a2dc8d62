"""The persistent cache of compiled programs, and the sizes of batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from timesformer_jax.compilation import bucket, user_cache


def test_few_sizes_of_batches() -> None:
    assert [bucket(count, 8) for count in (1, 2, 3, 4, 5, 8, 9, 100)] == [1, 2, 4, 4, 8, 8, 8, 8]
    assert [bucket(count, 6) for count in (1, 3, 5, 6, 7)] == [1, 4, 6, 6, 6]
    assert {bucket(count, 1) for count in range(1, 9)} == {1}


def test_where_caches_belong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says to ignore it
    monkeypatch.setenv("HOME", "/home/someone")
    assert user_cache() == Path("/home/someone/.cache")


PROGRAM = """
import sys
from pathlib import Path
from timesformer_jax.cli import run_command

def command():
    import jax
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: x * 2 + 1)(3.0)
    return 0

if "jax first" in sys.argv:
    import jax
options = {"directory": {"cache_directory": Path("given")}, "off": {"cache": False}}
sys.exit(run_command(command, **options.get(sys.argv[1], {})))
"""


@pytest.mark.parametrize(
    ("order", "changes"),
    [
        ("", {}),
        ("jax first", {}),
        ("", {"JAX_COMPILATION_CACHE_DIR": "other"}),
        ("directory", {}),
        ("off", {}),
        ("", {"JAX_ENABLE_COMPILATION_CACHE": "0"}),
    ],
)
def test_commands_keep_what_they_compile(order: str, changes: dict[str, str], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "xdg"), **changes}
    subprocess.run([sys.executable, "-c", PROGRAM, order], check=True, env=environment, cwd=tmp_path)
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("jit_*-cache")}
    expected = {"xdg"} if not changes else {"other"} if "JAX_COMPILATION_CACHE_DIR" in changes else set()
    expected = {"directory": {"given"}, "off": set()}.get(order, expected)
    assert written == expected
