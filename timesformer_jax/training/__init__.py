"""Training: a recipe and videos in, a trained model out."""
