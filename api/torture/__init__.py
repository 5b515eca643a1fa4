"""`llmctl torture`: a fleet of its own, broken in every way there is while it works, and the account of it."""
