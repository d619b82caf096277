"""Classifier to pool: models, training, pruning. Torch lives here."""
