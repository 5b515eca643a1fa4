"""`GET /events`: what happens, as it happens."""
