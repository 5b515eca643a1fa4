"""The middleware that every request passes: it authenticates the caller and writes the audit log."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_scheduler.api.access.access_control import AccessControl, Refusal, address_of, identify
from llm_scheduler.api.access.audit_log import Call
from llm_scheduler.api.access.loopback import READ_METHODS, loopback_refusal
from llm_scheduler.api.access.roles import Caller
from llm_scheduler.api.http.problems import HEADERS, problem
from llm_scheduler.jobs.clock import rfc3339

OPEN = frozenset({"/health", "/ready"})  # for load balancers and supervisors
# Browsers send no key for pages. Pages hold no data; the requests that they make need a key.
PAGES = frozenset({"/", "/dashboard.js", "/dashboard.css", "/docs"})

_SAFE_METHODS = READ_METHODS | {"OPTIONS"}
_REFUSED = frozenset({401, 403, 429})
_WITHOUT_EFFECT = _REFUSED | {404, 405}
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Guard:
    """ASGI middleware: passes a request on with its `Caller` or refuses it, adds `HEADERS` to every answer, and records
    calls. Each operation checks the caller's role itself.
    """

    def __init__(self, app: ASGIApp, access: AccessControl) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        scope["llm.access_control"] = self._access
        scope["llm.audit"] = {}
        began = self._access.clock.monotonic()
        identity = self._identify(scope)
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                there = {name for name, _ in message["headers"]}
                message["headers"].extend(header for header in _HEADERS if header[0] not in there)
                self._record(scope, identity, began, message["status"])  # before the answer is sent
            await send(message)

        if isinstance(identity, Refusal):
            await problem(identity.status, identity.text, identity.headers)(scope, receive, send_guarded)
            return
        if identity is not None:
            scope["llm.caller"] = identity
        try:
            await self._app(scope, receive, send_guarded)
        except asyncio.CancelledError:
            # The server stops and has waited long enough for this client.
            if started:
                raise
            await problem(503, "The server is stopping.", {"Retry-After": "5"})(scope, receive, send_guarded)
        except Exception:
            if not started:
                self._record(scope, identity, began, 500)
            raise

    def _identify(self, scope: Scope) -> Caller | Refusal | None:
        """The caller, or why the request is refused; None: its path is open to everybody."""
        path, reads = scope["path"], scope["method"] in READ_METHODS
        if reads and path in OPEN:
            return None
        if reads and (path in PAGES or path.startswith("/docs/")):
            text = loopback_refusal(scope) if self._access.is_open else None
            return Refusal(403, text) if text else None
        return identify(scope, self._access)

    def _record(self, scope: Scope, identity: Caller | Refusal | None, began: float, status: int) -> None:
        refused = identity if isinstance(identity, Refusal) else None
        caller = identity if isinstance(identity, Caller) else None
        if scope["method"] in _SAFE_METHODS and (status not in _REFUSED or (refused and refused.silent)):
            return
        address = address_of(scope)
        if status in _WITHOUT_EFFECT and not self._access.failures.may_record(address):
            return
        clock = self._access.clock
        self._access.audit.record(
            Call(
                at=rfc3339(clock.now()),
                who=caller.name if caller else None,
                role=caller.role if caller else None,
                how=caller.how if caller else None,
                address=address,
                method=scope["method"][:20],
                path=scope["path"][:200],
                status=status,
                seconds=round(clock.monotonic() - began, 4),
                facts={**(refused.facts | {"reason": refused.text} if refused else {}), **scope["llm.audit"]},
            )
        )
