"""A checkpoint on disk, without tensors: layout, headers, completeness, fingerprint."""
