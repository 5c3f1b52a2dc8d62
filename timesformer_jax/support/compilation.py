"""Compilation: JAX's persistent cache for the commands, options for a CPU, and few sizes of batches."""

import contextlib
import ctypes
import functools
import gc
import hashlib
import itertools
import os
import platform
import sys
from pathlib import Path

LEAST_SECONDS = "0.1"
"""A program that compiled in less is not kept in a file."""


def enable_compilation_cache(directory: Path | None = None) -> Path | None:
    """Lets JAX keep compiled programs on disk, so that the next process need not compile them.

    Each kind of CPU has a folder of its own. JAX's keys don't tell them apart: from a home that several machines share,
    or a copy, JAX would run a program with instructions that this CPU may not have.

    Args:
        directory: where they are kept; the user's cache directory when None. JAX's own environment variables then win:
            JAX_COMPILATION_CACHE_DIR for another place, JAX_ENABLE_COMPILATION_CACHE=false for none.

    Returns:
        The directory; None if it can't be written to, or the environment decides.
    """
    if directory is None:
        if "JAX_COMPILATION_CACHE_DIR" in os.environ or "JAX_ENABLE_COMPILATION_CACHE" in os.environ:
            return None
        directory = user_cache() / "timesformer_jax" / "compiled"
    directory /= cpu_kind()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(directory, os.W_OK):
        return None
    settings = {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
    }
    if "jax" in sys.modules:
        import jax

        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", float(LEAST_SECONDS))
    else:  # it is not imported for this alone
        os.environ.update({name.upper(): value for name, value in settings.items()})
    return directory


def cpu_kind(description: Path = Path("/proc/cpuinfo")) -> str:
    """A short text that tells kinds of CPUs apart: by model and instructions where the system describes them.

    Args:
        description: Linux's.
    """
    lines: dict[str, list[str]] = {}
    with contextlib.suppress(OSError), description.open(errors="replace") as file:
        for line in itertools.takewhile(str.strip, file):  # of the first core
            name, _, value = line.partition(":")
            lines[name.strip()] = sorted(value.split())
    told = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "CPU variant", "Features")
    facts = [platform.machine(), *(lines.get(name, []) for name in told)]
    return f"{platform.machine() or 'cpu'}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"


_FUSION_TYPE = "xla_cpu_experimental_ynn_fusion_type"


@functools.cache
def compiler_options() -> dict[str, str]:
    """Options that make the model faster, for `jax.jit(..., compiler_options=compiler_options())`; none but on a CPU.

    There, XLA gives matrix products and reductions to YNNPACK unless it is told otherwise. With these,
    YNNPACK keeps the reductions (softmax among them) and the products go to oneDNN, which is as fast or faster.
    XLA_FLAGS wins over them, and a compiler that does not know the option is not given it.
    """
    import jax

    if jax.default_backend() != "cpu" or _FUSION_TYPE in os.environ.get("XLA_FLAGS", ""):
        return {}
    options = {_FUSION_TYPE: "LIBRARY_FUSION_TYPE_REDUCE"}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(jax.ShapeDtypeStruct((), "float32")).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def release_memory() -> None:
    """Gives the system back what compiling leaves behind: some hundred megabytes, which glibc would keep."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def user_cache() -> Path:
    """The user's cache directory, as the XDG specification defines it."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # there is no home
        return Path("/nonexistent")


def bucket(count: int, largest: int) -> int:
    """The size of batch that `count` clips are padded to: a power of two, or the largest size itself.

    Every size is compiled once, so there must be few of them.
    """
    size = 1
    while size < min(count, largest):
        size *= 2
    return min(size, largest)
