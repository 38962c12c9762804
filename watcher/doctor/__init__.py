"""``watcher doctor``: checks cluster, file systems, job environment and this node."""
