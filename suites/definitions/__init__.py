"""Suites as data: what is scored, from YAML, with digests and cache keys."""
