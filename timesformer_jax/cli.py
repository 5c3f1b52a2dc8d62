"""The `timesformer` command, and how all commands end: one sentence for an error, an exit code."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from .commands.classify import Classify
from .commands.inspect import Inspect
from .commands.sample import Sample
from .errors import TimesformerError, VerificationError
from .progress import say

COMMANDS: dict[str, Any] = {"classify": Classify, "inspect": Inspect, "sample": Sample}


def run_command(command: Callable[[], int]) -> int:
    """Runs a command: whatever a person can put right ends in one sentence on standard error, and an exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports its progress there
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    try:
        return command()
    except TimesformerError as error:
        say(f"error: {error}")
        return 2
    except VerificationError as error:
        say(f"error: {error}")
    except BrokenPipeError:  # whoever read the output, `head` for one, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        say(f"error: {error.filename or 'a file'}: {error.strerror or error}.")
    except MemoryError:
        say("error: there is not enough memory.")
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 1


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the `timesformer` command."""
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, args=args, prog="timesformer", description="TimeSformer video classification in JAX."
    )
    return run_command(command.run)


if __name__ == "__main__":
    sys.exit(main())
