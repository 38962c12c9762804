"""What is remembered between ticks: event journal, lock, request files."""
