"""Small helpers that depend on nothing: errors, files written and read, YAML, formatting."""
