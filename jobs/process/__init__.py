"""What every process needs: start-up, termination, logs, the connection to Redis, and systemd's protocols."""
