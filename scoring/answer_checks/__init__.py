"""Checks of tier 4 answers.

To add one: a function here, its parameters in `suites/definitions/checks.py`.
"""
