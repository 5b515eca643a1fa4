"""`llm-worker`: takes RQ jobs, runs their documents, reports outcomes; and who watches over it."""
