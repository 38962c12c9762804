"""Data sets, tokenizers and the data cache.

To add a task: one function in `task_adapters.py`.
"""
