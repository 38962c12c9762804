"""Estimators, tests and intervals on numbers alone. Knows no results and no checkpoints."""
