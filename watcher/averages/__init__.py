"""Averages of checkpoints: their members, when they are due, and the pins that keep members until then. Pure."""
