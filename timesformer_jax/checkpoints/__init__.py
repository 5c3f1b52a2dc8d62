"""Checkpoints of every format: `load_checkpoint` reads them, `save_params` and `save_state_dict` write them."""

from .hub import HubOptions
from .huggingface import save_state_dict
from .open import Checkpoint, OpenCheckpoint, load_checkpoint, open_checkpoint
from .orbax_directory import save_params
from .source import Source, locate

__all__ = [
    "Checkpoint",
    "HubOptions",
    "OpenCheckpoint",
    "Source",
    "load_checkpoint",
    "locate",
    "open_checkpoint",
    "save_params",
    "save_state_dict",
]
