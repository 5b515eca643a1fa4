"""The middleware that every request passes: it authenticates the caller and writes the audit log."""

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_scheduler.api.access.access_control import AccessControl
from llm_scheduler.api.access.audit_log import Call
from llm_scheduler.api.access.credentials import Refusal, address_of, identify
from llm_scheduler.api.access.loopback import READ_METHODS, loopback_refusal
from llm_scheduler.api.access.roles import Caller
from llm_scheduler.api.http.headers import HEADERS
from llm_scheduler.api.http.problems import problem
from llm_scheduler.jobs.clock import rfc3339

OPEN = frozenset({"/health", "/ready"})  # for load balancers and supervisors
# Browsers send no key for pages. Pages hold no data; the requests that they make need a key.
PAGES = frozenset({"/", "/dashboard.js", "/dashboard.css", "/docs"})
_PAGE_FILES = "/docs/"

_SAFE_METHODS = READ_METHODS | {"OPTIONS"}
_REFUSED = frozenset({401, 403, 429})
_WITHOUT_EFFECT = _REFUSED | {404, 405}
_MAX_PATH = 200
_MAX_METHOD = 20
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


@dataclass(frozen=True)
class _GuardedRequest:
    """A request, when it arrived, and its caller or why it is refused; None: its path is open to everybody."""

    scope: Scope
    began: float
    identity: Caller | Refusal | None


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
        request = _GuardedRequest(scope, self._access.clock.monotonic(), self._identify(scope))
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                there = {name for name, _ in message["headers"]}
                message["headers"].extend(header for header in _HEADERS if header[0] not in there)
                self._record(request, message["status"])  # before the answer is sent
            await send(message)

        if isinstance(request.identity, Refusal):
            refusal = request.identity
            await problem(refusal.status, refusal.text, refusal.headers)(scope, receive, send_guarded)
            return
        if request.identity is not None:
            scope["llm.caller"] = request.identity
        try:
            await self._app(scope, receive, send_guarded)
        except asyncio.CancelledError:
            # The server stops and has waited long enough for this client.
            if started:
                raise
            await problem(503, "The server is stopping.", {"Retry-After": "5"})(scope, receive, send_guarded)
        except Exception:
            if not started:
                self._record(request, 500)
            raise

    def _identify(self, scope: Scope) -> Caller | Refusal | None:
        path, reads = scope["path"], scope["method"] in READ_METHODS
        if reads and path in OPEN:
            return None
        if reads and (path in PAGES or path.startswith(_PAGE_FILES)):
            text = loopback_refusal(scope) if self._access.is_open else None
            return Refusal(403, text) if text else None
        return identify(scope, self._access)

    def _record(self, request: _GuardedRequest, status: int) -> None:
        scope, identity = request.scope, request.identity
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
                method=scope["method"][:_MAX_METHOD],
                path=scope["path"][:_MAX_PATH],
                status=status,
                seconds=round(clock.monotonic() - request.began, 4),
                facts={**(refused.facts | {"reason": refused.text} if refused else {}), **scope["llm.audit"]},
            )
        )
