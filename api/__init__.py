"""The doors: HTTP (Starlette) and the command line (`llmctl`)."""
