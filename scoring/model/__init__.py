"""Shards as a torch model.

To add an architecture: `suites/checkpoint/architecture.py`, then `decoder.py`.
"""
