from api.local.up import up  # noqa: F401
