"""Reads folders, results, attempts, data cache and queue into one ``Snapshot``.

Decides nothing; writes only its own caches.
"""
