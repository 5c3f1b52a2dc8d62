"""`timesformer inspect` says what a checkpoint is."""

import dataclasses

import tyro

from .options import Command, Hub


@dataclasses.dataclass(frozen=True)
class Inspect(Command):
    """Say what a checkpoint is, and what would fail, without loading its weights.

    Attributes:
        checkpoint: a file, a directory or a Hub id.
        base: the checkpoint that a PEFT adapter is merged into, where it is not the one that the adapter names.
        hub: how to reach the Hugging Face Hub.
    """

    checkpoint: tyro.conf.Positional[str]
    base: str | None = None
    hub: Hub = dataclasses.field(default_factory=Hub)

    def run(self) -> int:
        """Prints the report; exits with 2 when the checkpoint could not be loaded."""
        from ..checkpoints.inspection import inspect_checkpoint

        report = inspect_checkpoint(self.checkpoint, hub=self.hub.options(), base=self.base)
        print(report)
        return 2 if report.problems else 0
