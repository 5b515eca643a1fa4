from api.local.embedded import *  # noqa: F403
from api.local.embedded import socket_url  # noqa: F401
