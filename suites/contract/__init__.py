"""Documents and paths that cross a process boundary.

From 0.1.0 on, changing one needs a schema number and a reader for the old one.
"""
