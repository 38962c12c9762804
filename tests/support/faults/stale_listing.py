"""What a file server shows of a directory that other nodes write: not yet what is there, and still what is gone."""


class StaleEntry:
    """An entry of a directory that is shown although it is gone."""

    def __init__(self, path):
        self.path, self.name = str(path), path.name

    def is_dir(self):
        return True


class StaleListing:
    """A directory's entries without the late ones, and with the stale ones."""

    def __init__(self, entries, late, stale):
        self.entries, self.late, self.stale = entries, late, stale

    def __enter__(self):
        self.entries.__enter__()
        return self

    def __exit__(self, *exc):
        return self.entries.__exit__(*exc)

    def __iter__(self):
        return (entry for entry in [*self.entries, *self.stale] if entry.name not in self.late)

    def close(self):
        self.entries.close()
