"""The running process: loop, tick, heartbeat, systemd, log, notifications, background jobs."""
