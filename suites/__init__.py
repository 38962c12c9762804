"""What both sides agree on: a checkpoint on disk, a suite, a request, a result. No torch, no numpy."""
