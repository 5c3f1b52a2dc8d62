"""The model: modeling.py first, then layers, attention, token_groups and embeddings."""
