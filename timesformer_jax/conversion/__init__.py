"""Conversion of checkpoints between formats, and the comparison of PyTorch with Flax."""

from .convert import convert_flax_to_hf, convert_hf_to_flax

__all__ = ["convert_flax_to_hf", "convert_hf_to_flax"]
