"""`watcher simulate`: the real daemon against a simulated cluster, in seconds."""
