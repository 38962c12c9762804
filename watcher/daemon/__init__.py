"""The running process: polling loop, one tick, heartbeat, systemd, log, notifications, background jobs."""
