"""Access to the API: keys, tokens, roles, and the audit log."""
