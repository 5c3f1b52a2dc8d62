"""The `timesformer` command, and how all commands end: with one sentence for an error, and an exit code."""

import atexit
import contextlib
import dataclasses
import functools
import gc
import logging
import os
import platform
import re
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union

import tyro

from .commands.ablate import Ablate
from .commands.app import App
from .commands.classify import Classify
from .commands.demo import Demo
from .commands.evaluate import Evaluate
from .commands.export import Export
from .commands.features import Features
from .commands.inspect import Inspect
from .commands.motion import Motion
from .commands.options import Flag
from .commands.pack import Pack
from .commands.sample import Sample
from .commands.summary import Summary
from .commands.train import Train
from .commands.visualize import Visualize
from .errors import ConfigError, ending
from .support.compilation import enable_compilation_cache
from .support.progress import say

COMMANDS: dict[str, Any] = {
    "ablate": Ablate,
    "app": App,
    "classify": Classify,
    "demo": Demo,
    "evaluate": Evaluate,
    "export": Export,
    "features": Features,
    "inspect": Inspect,
    "motion": Motion,
    "pack": Pack,
    "sample": Sample,
    "summary": Summary,
    "train": Train,
    "visualize": Visualize,
}


Options = TypeVar("Options")


def parse(options: type[Options], prog: str, *config: Any, args: Sequence[str] | None = None) -> Options:
    """Reads a command line as tyro does, which prints the help and ends the process where that is asked for."""
    try:
        with end_quietly_without_reader():
            return tyro.cli(options, args=args, prog=prog, config=config)
    except SystemExit as error:
        for word in sys.argv[1:] if args is None else args:
            if error.code and word.startswith("-") and Path(word).exists():
                say(f"error: {word} begins with a dash, as options do; write ./{word} for the file.")
        raise
    except ConfigError as error:  # of settings whose options have no prefix; of others tyro itself tells
        say(f"error: {error}")
        sys.exit(2)


@contextlib.contextmanager
def end_quietly_without_reader() -> Generator[None]:
    """Ends the process with 0 and without a word when whoever reads its output, `head` for one, has enough."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes at its end
        sys.exit(0)


def run_command(command: Callable[[], int], *, cache: bool = True, cache_directory: Path | None = None) -> int:
    """Runs a command: whatever a person can put right ends in one sentence on standard error, and an exit code.

    Args:
        command: returns the exit code.
        cache: whether compiled programs are kept for the next run.
        cache_directory: where they are kept; the user's cache directory when not given.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax: its progress, and what it raises, too
    logging.getLogger("huggingface_hub").propagate = False  # it prints its lines itself
    if cache:
        enable_compilation_cache(cache_directory)
    hush_foreign_threads()
    atexit.register(gc.freeze)  # nothing is searched for garbage when the process ends anyway
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    with end_quietly_without_reader():
        try:
            return command()
        except BrokenPipeError:  # an OSError, too
            raise
        except (Exception, KeyboardInterrupt) as error:
            sentence, code = ending(error)
            if sentence is None:
                raise
            say(sentence if isinstance(error, KeyboardInterrupt) else f"error: {sentence}")
            return code


@functools.cache
def hush_foreign_threads() -> None:
    """Silences errors in threads that are not Python's: those of TensorStore, which Orbax raises, too."""
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        # Those belong to no object, where a destructor's do.
        if unraisable.object is not None or threading.current_thread() is threading.main_thread():
            report(unraisable)

    sys.unraisablehook = report_others


def refuse_urls(command: Any) -> None:
    """Refuses gs://bucket/run, which would become a folder called "gs:" here.

    Raises:
        ConfigError: an option that is a path on this machine was given a URL.
    """
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        # A path has lost one of the slashes. Drives of Windows are single letters.
        if isinstance(value, Path) and re.match("[A-Za-z][A-Za-z0-9+.-]+:[/\\\\]", str(value)):
            option = field.name.replace("_", "-")
            raise ConfigError(
                f"{option} is {value}: it must be on this machine or a mounted file system (gcsfuse mounts gs://)."
            )


def _marks(name: str) -> tuple[Any, ...]:
    """Settings of tyro for a command. In a recipe alone, None is a value for options that have another default."""
    return tyro.conf.subcommand(name), *(() if name == "train" else (tyro.conf.DisallowNone,))


if TYPE_CHECKING:
    Command = Any
else:  # tyro reads it: one of the classes, chosen by its name
    Command = Union[tuple(Annotated[kind, *_marks(name)] for name, kind in COMMANDS.items())]  # noqa: UP007


@dataclasses.dataclass(frozen=True)
class Timesformer:
    """TimeSformer video classification in JAX.

    `timesformer COMMAND --help` lists the options of a command, `timesformer --version` what is installed.

    Attributes:
        command: what to do.
        compilation_cache: directory where compiled programs are kept for the next run, in a folder for each kind of
            CPU; timesformer_jax/compiled in the user's cache directory when not given.
        no_compilation_cache: compile everything anew.
    """

    command: Annotated[Command, tyro.conf.arg(name="")]
    compilation_cache: tyro.conf.DisallowNone[Path | None] = None
    no_compilation_cache: Flag = False


def _versions() -> str:
    """The versions that a report of a problem should name."""
    names = ("timesformer-jax", "jax", "flax")
    return ", ".join([*(f"{name} {version(name)}" for name in names), f"Python {platform.python_version()}"])


def main(args: Sequence[str] | None = None) -> int:
    """Runs the `timesformer` command."""
    if list(sys.argv[1:] if args is None else args) == ["--version"]:
        with end_quietly_without_reader():
            print(_versions())
        return 0
    given = parse(Timesformer, "timesformer", tyro.conf.CascadeSubcommandArgs, args=args)

    def run() -> int:
        refuse_urls(given.command)
        return given.command.run()

    return run_command(run, cache=not given.no_compilation_cache, cache_directory=given.compilation_cache)


if __name__ == "__main__":
    sys.exit(main())
