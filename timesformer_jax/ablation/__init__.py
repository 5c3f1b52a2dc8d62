"""Ablations: variants of a recipe, trained with the same budget from the same seeds, and compared."""
