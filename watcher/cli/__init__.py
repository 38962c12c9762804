"""Commands of `watcher`. One file a command; nothing here decides anything."""
