"""Local mode: everything on one machine, with an embedded server (`llmctl up`)."""
