"""Suites as data: what is scored, read from YAML, with digests."""
