"""Who may do what: callers and their roles, keys, tokens, and the record of what they changed."""
