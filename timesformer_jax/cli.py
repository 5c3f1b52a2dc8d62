"""The `timesformer` command, and how all commands end: with one sentence for an error, and an exit code."""

import ast
import atexit
import contextlib
import dataclasses
import functools
import gc
import importlib
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
from typing import Annotated, Any, TypeVar, Union

import tyro

from .errors import ConfigError, ending
from .support.progress import say

COMMANDS = (
    "ablate",
    "app",
    "classify",
    "demo",
    "evaluate",
    "export",
    "features",
    "inspect",
    "motion",
    "pack",
    "sample",
    "summary",
    "train",
    "visualize",
)
"""The modules of commands/, each with a class of its name; it is imported when the command is asked for."""

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
        from .support.compilation import enable_compilation_cache

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


def parse_command(args: Sequence[str]) -> Any:
    """Reads a command line of `timesformer`, and imports nothing but the command that it names."""
    valued = ("--compilation-cache", "--compilation_cache")  # whose value may stand before the command
    words = (i for i, word in enumerate(args) if not word.startswith("-") and not (i and args[i - 1] in valued))
    place = next(words, None)
    if place is None or args[place] not in COMMANDS:  # the help, or a mistake
        return parse(_overview(), "timesformer", args=args)
    name, options = args[place], [*args[:place], *args[place + 1 :]]
    # In a recipe alone, None is a value for options that have another default.
    marks = (tyro.conf.CascadeSubcommandArgs, *(() if name == "train" else (tyro.conf.DisallowNone,)))
    kind = getattr(importlib.import_module(f".commands.{name}", __package__), name.capitalize())
    return parse(kind, f"timesformer {name}", *marks, args=options)


def _overview() -> Any:
    """What tyro shows of all commands: their names, and the first line of what their classes say of them."""
    kinds: list[Any] = []
    for name in COMMANDS:
        source = (Path(__file__).parent / "commands" / f"{name}.py").read_text(encoding="utf-8")
        classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
        said = (ast.get_docstring(classes[name.capitalize()]) or "").partition("\n")[0]
        kind = dataclasses.make_dataclass(name.capitalize(), [], namespace={"__doc__": said})
        kinds.append(Annotated[kind, tyro.conf.subcommand(name, description=said)])
    command = Annotated[Union[tuple(kinds)], tyro.conf.arg(name="")]  # noqa: UP007
    return dataclasses.make_dataclass("Timesformer", [("command", command)], namespace={"__doc__": DESCRIPTION})


DESCRIPTION = """TimeSformer video classification in JAX.

`timesformer COMMAND --help` lists the options of a command, `timesformer --version` what is installed.
"""


def _versions() -> str:
    """The versions that a report of a problem should name."""
    names = ("timesformer-jax", "jax", "flax")
    return ", ".join([*(f"{name} {version(name)}" for name in names), f"Python {platform.python_version()}"])


def main(args: Sequence[str] | None = None) -> int:
    """Runs the `timesformer` command."""
    args = sys.argv[1:] if args is None else args
    if list(args) == ["--version"]:
        with end_quietly_without_reader():
            print(_versions())
        return 0
    command = parse_command(args)

    def run() -> int:
        refuse_urls(command)
        return command.run()

    return run_command(run, cache=not command.no_compilation_cache, cache_directory=command.compilation_cache)


if __name__ == "__main__":
    sys.exit(main())
