"""Reads published results; reports them as text, CSV, JSON and HTML."""
