#!/usr/bin/env python
"""Converts a checkpoint to a directory that Transformers loads: config, preprocessing, safetensors, model card."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from timesformer_jax.cli import parse, run_command
from timesformer_jax.commands.options import Flag, Loading


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Convert a checkpoint to a directory that Transformers loads.

    Attributes:
        source: a converted directory, or any other checkpoint (an original .pyth file, a Transformers directory, ...).
        destination: the directory to make.
        verify: run PyTorch and Flax on the same clip, print the largest differences, and fail if float32 does not
            explain them. Needs torch and transformers.
        video: the clip to verify on; random pixel values when not given.
        max_shard_size: size above which the weights are cut into several files.
        overwrite: replace an existing checkpoint, once the new one is complete.
        loading: how the checkpoint is loaded.
    """

    source: tyro.conf.Positional[str]
    destination: tyro.conf.Positional[Path]
    verify: Flag = False
    video: Path | None = None
    max_shard_size: str = "5GB"
    overwrite: Flag = False
    loading: Annotated[Loading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Loading)

    def run(self) -> int:
        """Converts, and says where the result is."""
        from timesformer_jax.conversion.convert import convert_flax_to_hf

        convert_flax_to_hf(
            self.source,
            self.destination,
            max_shard_size=self.max_shard_size,
            overwrite=self.overwrite,
            check=self.verify,
            video=self.video,
            **self.loading.options(),
        )
        print(f"converted {self.source} to {self.destination}")
        return 0


if __name__ == "__main__":
    sys.exit(run_command(parse(Arguments, "convert_flax_to_hf", tyro.conf.DisallowNone).run))
