"""`timesformer summary`: what a model is made of, and what it costs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro

from ..errors import TimesformerError
from .options import Command, ConfigChanges, Flag, Hub


@dataclasses.dataclass(frozen=True)
class Summary(Command):
    """Show the parts of a model with their shapes, parameters and multiply-adds, without making it.

    Attributes:
        model: a published model's architecture (such as base-k400), a config.json, or a checkpoint.
        frames: of a clip; the model's own when not given.
        size: height and width of the frames in pixels; the model's own when not given.
        views: clips of a video that are looked at; the paper takes three.
        json: print JSON instead of a table.
        config: fields of the configuration to change.
        base: the checkpoint that a PEFT adapter is merged into, where it is not the one that the adapter names.
        hub: how to reach the Hugging Face Hub.
    """

    model: tyro.conf.Positional[str]
    frames: int | None = None
    size: tuple[int, int] | None = None
    views: int = 3
    json: Flag = False
    config: ConfigChanges = dataclasses.field(default_factory=ConfigChanges)
    base: str | None = None
    hub: Hub = dataclasses.field(default_factory=Hub)

    def run(self) -> int:
        """Prints the table and the totals."""
        if (self.frames is not None and self.frames < 1) or self.views < 1:
            raise TimesformerError("--frames and --views must be 1 or more.")
        from ..model.summary import summarize

        config, head = self._config()
        changes = {name: value for name, value in dataclasses.asdict(self.config).items() if value is not None}
        summary = summarize(config.replace(**changes), num_frames=self.frames, size=self.size, head=head)
        if self.json:
            parts = [dataclasses.asdict(part) for part in summary.parts]
            totals = {"parameters": summary.parameters, "multiply_adds": summary.multiply_adds}
            print(json.dumps({"input_shape": summary.input_shape, **totals, "parts": parts}))
            return 0
        print(summary)
        one, all_views = (f"{count * summary.multiply_adds / 1e12:.3g}" for count in (1, self.views))
        views = "" if self.views == 1 else f", {all_views} T for {self.views} views"
        print(f"{summary.parameters / 1e6:.1f} M parameters; {one} T multiply-adds for one view{views}")
        return 0

    def _config(self) -> tuple[Any, bool]:
        """The configuration, and whether there is a classifier."""
        from ..checkpoints.inspection import inspect_checkpoint
        from ..config import TimesformerConfig
        from ..presets import PRESETS

        if self.model in PRESETS:
            return TimesformerConfig.preset(self.model), True
        if self.model.endswith(".json") and Path(self.model).is_file():
            return TimesformerConfig.from_json_file(self.model), True
        if not Path(self.model).exists() and "/" not in self.model:
            presets = ", ".join(PRESETS)
            raise TimesformerError(f"{self.model} is no file, no directory and none of the presets {presets}.")
        report = inspect_checkpoint(self.model, hub=self.hub.options(), base=self.base)
        if report.config is None:
            raise TimesformerError(f"{self.model} does not tell its architecture: {' '.join(report.problems)}")
        return report.config, any("classifier" in name.replace("/", ".").split(".") for name in report.tensors)
