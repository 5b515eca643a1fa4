"""Everything that is in Redis: its keys, what lies under them, and the scripts that change it."""
