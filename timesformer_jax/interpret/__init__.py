"""Looking inside a model: attention maps, rollout, relevance, features, and their pictures."""
