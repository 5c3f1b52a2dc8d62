"""Errors that a person can put right: the message says in one sentence what was wrong, where, and what to do."""


class TimesformerError(ValueError):
    """Input that can't be used. The commands print the message without a traceback and exit with 2."""


class ConfigError(TimesformerError):
    """A configuration that no model can have, or a config.json that can't be read."""


class CheckpointError(TimesformerError):
    """A checkpoint that is missing, damaged, or does not hold what the configuration asks for."""


class VerificationError(Exception):
    """Two models that should agree don't. The commands print the message without a traceback and exit with 1."""


class VideoError(TimesformerError):
    """A video, image sequence or array from which no clip can be made."""


class DataError(TimesformerError):
    """A data set that can't be used: a list, folder or shards that are missing, damaged or hold too many bad videos."""


class TrainingError(Exception):
    """Training that can't go on, such as a loss that is not finite. The commands print the message and exit with 1."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def ending(error: BaseException) -> tuple[str | None, int]:
    """How a command ends after an error: with which sentence, and with which exit code.

    Returns:
        The sentence, without "error: " before it, or None for an error that is no person's to put right, whose
        traceback is what helps; and the code.
    """
    match error:
        case TimesformerError():
            return str(error), 2
        case VerificationError() | TrainingError():
            return str(error), 1
        case OSError():
            return f"{error.filename or 'a file'}: {error.strerror or error}.", 1
        case MemoryError():
            return "there is not enough memory.", 1
        case KeyboardInterrupt():
            return "interrupted", 130
        case _:
            return None, 1
