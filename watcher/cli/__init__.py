"""Commands of `watcher`.

One file for each group of commands; nothing here decides anything.
"""
