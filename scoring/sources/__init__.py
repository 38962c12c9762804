"""Rows of local files and of the hub, and the documents and questions that they become.

To add a task: one function in `task_adapters.py`.
"""
