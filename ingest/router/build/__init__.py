"""Builds the router's tables for `make artefacts`, in a checkout. The wheel does not contain it."""
