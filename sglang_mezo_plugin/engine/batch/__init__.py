"""From examples to one forward's batch, and from its logits to log-probabilities."""
