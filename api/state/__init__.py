"""How is the system? One answer for `/health`, `/ready`, `/hosts`, the dashboard, `llmctl status`, the autoscaler."""
