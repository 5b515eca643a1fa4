"""What every endpoint is built from: operations, parameters, problems, uploads, idempotency."""
