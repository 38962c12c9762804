"""`watcher doctor`: checks the cluster, file systems, job environment and this node before they are needed."""
