"""`llm-scheduler`: batch flushes, delayed retries, the search for late and abandoned work."""
