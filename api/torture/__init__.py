"""`llmctl torture`: a test fleet that is damaged in every way while it works, and the check that nothing is lost."""
