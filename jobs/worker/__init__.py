"""`llm-worker`: takes RQ jobs, runs their documents and sends the outcomes; its supervisor; the reaper."""
