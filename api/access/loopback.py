"""Without keys the API listens on loopback only. A web page in a local browser can reach it there, so it is refused."""

import ipaddress
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

READ_METHODS = frozenset({"GET", "HEAD"})


def loopback_refusal(scope: Scope) -> str | None:
    """Why a request is refused that does not come from this machine's own programs; None: it is allowed.

    The Host header shows a page whose own name resolves to 127.0.0.1, Origin one that posts across sites.
    """
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if host and not _is_loopback(_host_name(host)):
        return (
            f"This server answers to localhost only, not to {_host_name(host)!r}. To be reached by another name, "
            "it needs security.api_key_enabled."
        )
    origin = headers.get("origin")
    if origin not in (None, f"http://{host}", f"https://{host}") and scope["method"] not in READ_METHODS:
        return "This request comes from a page of another site, and without API keys that is refused."
    return None


def _host_name(host: str) -> str:
    """A Host header without its port and without an IPv6 address's brackets."""
    name = host[1:].split("]", 1)[0] if host.startswith("[") else host.split(":", 1)[0]
    return name.lower()


@lru_cache(maxsize=64)
def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
