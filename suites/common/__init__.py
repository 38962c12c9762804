"""Small helpers that depend on nothing: errors, atomic files, YAML reader, formatting."""
