"""What is remembered between ticks: the event journal, the lock, the requests folder."""
