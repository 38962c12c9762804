"""Carries out what was decided: the only room with effects on the cluster."""
