"""The process around the work: parts and leases, fence, progress, stop signal, log, provenance."""
