"""What a tier is, and the three tiers.

To add a tier: one file here and one line in `registry.py`.
"""
