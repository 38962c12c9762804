"""Implementations of the executor interface: Slurm and local processes."""
