"""The host that owns the folders: watching, claiming, routing, submitting and collecting."""
