"""How good a checkpoint is: views of videos, averaged outputs, accuracies."""
