"""Checkpoints from one format to another, and the comparison of both sides."""

from .convert import convert_flax_to_hf, convert_hf_to_flax

__all__ = ["convert_flax_to_hf", "convert_hf_to_flax"]
