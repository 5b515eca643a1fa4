"""Without keys the API listens on loopback only, where any web page in a browser can reach it: pages are refused."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

READING = frozenset({"GET", "HEAD"})


def foreign(scope: Scope) -> str | None:
    """Why a request is not one of this machine's own; None when it is.

    A page that has its own name point to 127.0.0.1 shows in Host; one that posts across sites shows in Origin.
    """
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if host and not _is_loopback(_name(host)):
        return (
            f"This server answers to localhost only, not to {_name(host)!r}. To be reached by another name, "
            "it needs security.api_key_enabled."
        )
    origin = headers.get("origin")
    if origin is not None and scope["method"] not in READING and origin not in _own_origins(host):
        return "This request comes from a page of another site, and without API keys that is refused."
    return None


def _name(host: str) -> str:
    """A Host header without its port and without an IPv6 address's brackets."""
    name = host[1:].split("]", 1)[0] if host.startswith("[") else host.split(":", 1)[0]
    return name.lower()


@lru_cache(maxsize=64)
def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _own_origins(host: str) -> Iterable[str]:
    return (f"http://{host}", f"https://{host}")
