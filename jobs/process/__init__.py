"""The process around the work: start-up, signals, logs, the connection to Redis, and what systemd is told."""
