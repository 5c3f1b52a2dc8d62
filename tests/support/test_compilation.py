"""The persistent cache of compiled programs, and the sizes of batches."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_flax import BATCH, clips, tiny_flax

from timesformer_jax import VideoProcessor
from timesformer_jax.evaluation import prediction
from timesformer_jax.evaluation.prediction import make_predict
from timesformer_jax.inference import batching as forward
from timesformer_jax.inference.batching import compiled_forward
from timesformer_jax.inference.folding import fold_for_inference
from timesformer_jax.interpret import features
from timesformer_jax.support.compilation import bucket, compiler_options, cpu_kind, user_cache


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
    folders = {path.parent.name for path in tmp_path.rglob("jit_*-cache")}
    assert folders == ({cpu_kind()} if expected & {"xdg", "given"} else expected)


@pytest.mark.slow
def test_a_cache_of_another_machine_is_not_used(tmp_path: Path) -> None:
    """JAX itself would run what it finds there, and say that this could end in an illegal instruction."""
    environment = {name: value for name, value in os.environ.items() if "JAX_COMPILATION_CACHE" not in name}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "true"}
    other = "from timesformer_jax.support import compilation\ncompilation.cpu_kind = lambda: 'another'\n"
    for before in (other, ""):
        command = [sys.executable, "-c", before + PROGRAM, "directory"]
        subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    assert {path.parent.name for path in tmp_path.glob("given/*/jit_*-cache")} == {"another", cpu_kind()}


def test_kinds_of_cpus(tmp_path: Path) -> None:
    def kind(flags: str, model: str = "17") -> str:
        core = f"vendor_id\t: X\nmodel\t\t: {model}\ncpu MHz\t: {len(flags)}\nflags\t\t: {flags}\n"
        (tmp_path / "cpuinfo").write_text(f"{core}\n{core.replace(flags, 'sse')}\n")
        return cpu_kind(tmp_path / "cpuinfo")

    assert kind("sse avx") == kind("avx sse")
    assert len({kind("sse"), kind("sse avx"), kind("sse avx", "18"), cpu_kind(tmp_path / "nothing")}) == 4


@pytest.fixture
def fresh_options() -> Iterator[None]:
    compiler_options.cache_clear()
    yield
    compiler_options.cache_clear()


@pytest.mark.usefixtures("fresh_options")
def test_a_cpu_gives_products_to_onednn_and_softmax_to_ynnpack() -> None:
    def attend(logits: jax.Array, values: jax.Array) -> jax.Array:
        return jax.nn.softmax(logits) @ values

    arrays = [jnp.ones(shape, jnp.float32) for shape in ((512, 512), (512, 1024))]
    assert compiler_options(), "this XLA does not know the option any more: measure anew"
    programs = [
        jax.jit(attend, compiler_options=options).lower(*arrays).compile() for options in ({}, compiler_options())
    ]
    as_it_is, faster = (program.as_text() for program in programs)
    assert " dot(" not in as_it_is[as_it_is.index("ENTRY") :]  # all of it is YNNPACK's
    assert " dot(" in faster[faster.index("ENTRY") :]
    assert "__ynn_fusion" in faster
    np.testing.assert_allclose(programs[1](*arrays), programs[0](*arrays), rtol=1e-5)  # float32


@pytest.mark.usefixtures("fresh_options")
def test_xla_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT")
    assert compiler_options() == {}


@pytest.mark.usefixtures("fresh_options")
def test_an_accelerator_gets_no_options_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert compiler_options() == {}


@pytest.mark.usefixtures("fresh_options")
def test_a_compiler_is_not_given_an_option_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timesformer_jax.support.compilation._FUSION_TYPE", "xla_cpu_an_option_of_another_time")
    assert compiler_options() == {}


@pytest.mark.parametrize("name", ["inference", "features", "evaluation"])
def test_what_is_compiled_here_has_the_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of training are in training/test_loop.py."""
    model, params = tiny_flax("divided_space_time", dtype=jnp.float32)
    module, folded = fold_for_inference(model, params)
    pixel_values = clips().astype(np.float32)
    frames = np.zeros((BATCH, 1, *pixel_values.shape[1:]), np.uint8)
    programs: dict[str, Callable[[], Any]] = {
        "inference": lambda: inspect.unwrap(compiled_forward)()(module, {"params": folded}, pixel_values),
        "features": lambda: inspect.unwrap(features.compiled_embedding)()(model, params, pixel_values),
        "evaluation": lambda: make_predict(model, VideoProcessor())(params, frames),
    }
    programs[name]()
    for module_of in (forward, features, prediction):
        monkeypatch.setattr(module_of, "compiler_options", lambda: {"xla_no_option": "1"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_option"):
        programs[name]()
