"""How the router's shipped tables are made. Not in the wheel: `make artefacts` runs it in a checkout."""
