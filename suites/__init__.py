"""What login node and GPU job agree on, and the shipped suites.

Imports no torch and no numpy.
"""
