"""watcher.yaml: schema, defaults, loading, validation."""
