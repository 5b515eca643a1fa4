"""Who may ask for what."""

import asyncio
import hmac
import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.headers import HEADERS
from api.problems import problem
from jobs.config import Config, Security

OPEN = frozenset({"/health"})  # asked by those who only want to know whether the process lives
_READING = frozenset({"GET", "HEAD"})
_KEY_HEADER = b"x-api-key"


class Guard:
    """ASGI middleware: lets a request in or answers it, and puts `HEADERS` on whatever is answered."""

    def __init__(self, app: ASGIApp, config: Config) -> None:
        self._app = app
        self._security = config.security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = _refusal(scope, self._security)
        if refusal is None:
            try:
                await self._app(scope, receive, send_guarded)
            except asyncio.CancelledError:
                # The server is told to stop and has waited long enough for this client.
                if started:
                    raise
                await problem(503, "The server is stopping.", {"Retry-After": "5"})(scope, receive, send_guarded)
        else:
            status, detail = refusal
            headers = {"WWW-Authenticate": 'ApiKey header="X-API-Key"'} if status == 401 else {}
            await problem(status, detail, headers)(scope, receive, send_guarded)


def _refusal(scope: Scope, security: Security) -> tuple[int, str] | None:
    """Status and words for who may not pass; None lets them in."""
    if scope["path"] in OPEN:
        return None
    if security.api_key_enabled:
        return _without_key(scope, security)
    if security.jwt_enabled:
        # Closed rather than open by mistake: tokens can't be checked by this version.
        return 401, "security.jwt_enabled is set, but this version checks no tokens. Use security.api_key_enabled."
    return _foreign(scope)


def _without_key(scope: Scope, security: Security) -> tuple[int, str] | None:
    given = [value for name, value in scope["headers"] if name == _KEY_HEADER]
    if len(given) != 1:
        return 401, "An API key is needed: send it once, in the header X-API-Key."
    # Both comparisons are always made, so that the time taken says nothing.
    is_admin, is_reader = _same(given[0], security.api_keys.admin), _same(given[0], security.api_keys.readonly)
    if is_admin:
        return None
    if not is_reader:
        return 401, "The API key in X-API-Key is not one that this server knows."
    if scope["method"] not in _READING:
        return 403, f"This API key may only read (GET); {scope['method']} needs the admin key."
    return None


def _same(given: bytes, key: str) -> bool:
    return hmac.compare_digest(given, key.encode()) and key != ""


def _foreign(scope: Scope) -> tuple[int, str] | None:
    """Without keys the API listens on loopback only, where any web page in a browser can reach it: refuse pages.

    A page that has its own name point to 127.0.0.1 shows in Host; one that posts across sites shows in Origin.
    """
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if host and not _is_loopback(_name(host)):
        return 403, (
            f"This server answers to localhost only, not to {_name(host)!r}. To be reached by another name, "
            "it needs security.api_key_enabled."
        )
    origin = headers.get("origin")
    if origin is not None and scope["method"] not in _READING and origin not in _own_origins(host):
        return 403, "This request comes from a page of another site, and without API keys that is refused."
    return None


def _name(host: str) -> str:
    """A Host header without its port and without an IPv6 address's brackets."""
    name = host[1:].split("]", 1)[0] if host.startswith("[") else host.split(":", 1)[0]
    return name.lower()


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _own_origins(host: str) -> Iterable[str]:
    return (f"http://{host}", f"https://{host}")
