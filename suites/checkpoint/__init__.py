"""A Nanotron checkpoint on disk, without tensors: layout, headers, completeness, fingerprint."""
