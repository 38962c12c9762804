"""`watcher audit`: compares journal, disk and queue, and repairs the journal."""
