"""The process around the work: leases, fence, progress, signals, log, provenance."""
