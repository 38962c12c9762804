"""Paired comparison of two checkpoints. Knows no model and no torch."""
