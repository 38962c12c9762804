"""status.json and its readers: the table, liveness, `watcher why`."""
