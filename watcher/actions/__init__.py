"""Carries decisions out: the only room with effects on the cluster."""
