"""Training and evaluation: videos in, a trained model and its accuracy out."""
