"""The commands of `timesformer`, one a file: what each takes, and the few lines that run it."""
