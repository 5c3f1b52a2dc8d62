#!/usr/bin/env python
"""Converts a PyTorch checkpoint to a directory for JAX: config, preprocessing, parameters in Orbax."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from timesformer_jax.cli import parse, run_command
from timesformer_jax.commands.options import Flag, Loading


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Convert a PyTorch checkpoint to a directory for JAX.

    Attributes:
        source: a Transformers directory or weights file, a Hub id, an original .pyth file, a checkpoint of mmaction2 or
            Lightning, a Trainer's output directory, or a ViT.
        destination: the directory to make.
        verify: run PyTorch and Flax on the same clip, print the largest differences, and fail if float32 does not
            explain them. Needs torch and transformers.
        video: the clip to verify on; random pixel values when not given.
        param_dtype: type of the stored parameters; the file's own when not given.
        overwrite: replace an existing checkpoint, once the new one is complete.
        loading: how the checkpoint is loaded.
    """

    source: tyro.conf.Positional[str]
    destination: tyro.conf.Positional[Path]
    verify: Flag = False
    video: Path | None = None
    param_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    overwrite: Flag = False
    loading: Annotated[Loading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Loading)

    def run(self) -> int:
        """Converts, and says where the result is."""
        from timesformer_jax.conversion.convert import convert_hf_to_flax

        convert_hf_to_flax(
            self.source,
            self.destination,
            param_dtype=self.param_dtype,
            overwrite=self.overwrite,
            check=self.verify,
            video=self.video,
            **self.loading.options(),
        )
        print(f"converted {self.source} to {self.destination}")
        return 0


if __name__ == "__main__":
    sys.exit(run_command(parse(Arguments, "convert_hf_to_flax", tyro.conf.DisallowNone).run))
