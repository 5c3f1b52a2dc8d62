"""Training and evaluation data: lists of videos to batches of clips."""
