"""The middleware that every request passes: who is asking, what it may not even ask, and the record of it."""

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_scheduler.api.access.access_control import Gatehouse
from llm_scheduler.api.access.audit import Call
from llm_scheduler.api.access.credentials import Refusal, address_of, identify
from llm_scheduler.api.access.loopback import READING, foreign
from llm_scheduler.api.access.roles import Caller
from llm_scheduler.api.http.headers import HEADERS
from llm_scheduler.api.http.problems import problem
from llm_scheduler.jobs.clock import rfc3339

# Asked by those who only want to know whether the process lives, and takes requests.
OPEN = frozenset({"/health", "/ready"})
# Pages hold no data: a browser, which sends no key for them, gets them, and what they show needs one.
PAGES = frozenset({"/", "/dashboard.js", "/dashboard.css", "/docs"})
_PARTS_OF_PAGES = "/docs/"

_CHANGES_NOTHING = READING | {"OPTIONS"}
_TURNED_AWAY = frozenset({401, 403, 429})
_NOTHING_DONE = _TURNED_AWAY | {404, 405}
_MAX_PATH = 200
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_MAX_METHOD = 20


@dataclass(frozen=True)
class _Visit:
    """A request at the gate: when it came, and whom it turned out to be from."""

    scope: Scope
    began: float
    found: Caller | Refusal | None  # None: it asks for something open


class Guard:
    """ASGI middleware: lets a request in as a `Caller` or answers it, puts `HEADERS` on whatever is answered, and
    records what changes something. What a caller may do is for the operations to say.
    """

    def __init__(self, app: ASGIApp, gate: Gatehouse) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        scope["llm.gatehouse"] = self._gate
        scope["llm.audit"] = {}
        visit = _Visit(scope, self._gate.clock.monotonic(), self._look(scope))
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                there = {name for name, _ in message["headers"]}
                message["headers"].extend(header for header in _HEADERS if header[0] not in there)
                self._record(visit, message["status"])  # before anybody hears of it
            await send(message)

        if isinstance(visit.found, Refusal):
            refusal = visit.found
            await problem(refusal.status, refusal.words, refusal.headers)(scope, receive, send_guarded)
            return
        if visit.found is not None:
            scope["llm.caller"] = visit.found
        try:
            await self._app(scope, receive, send_guarded)
        except asyncio.CancelledError:
            # The server is told to stop and has waited long enough for this client.
            if started:
                raise
            await problem(503, "The server is stopping.", {"Retry-After": "5"})(scope, receive, send_guarded)
        except Exception:
            if not started:
                self._record(visit, 500)
            raise

    def _look(self, scope: Scope) -> Caller | Refusal | None:
        path, reads = scope["path"], scope["method"] in READING
        if reads and path in OPEN:
            return None
        if reads and (path in PAGES or path.startswith(_PARTS_OF_PAGES)):
            security = self._gate.security
            words = None if security.api_key_enabled or security.jwt_enabled else foreign(scope)
            return Refusal(403, words) if words else None
        return identify(scope, self._gate)

    def _record(self, visit: _Visit, status: int) -> None:
        scope, found = visit.scope, visit.found
        refused = found if isinstance(found, Refusal) else None
        caller = found if isinstance(found, Caller) else None
        if scope["method"] in _CHANGES_NOTHING and (status not in _TURNED_AWAY or (refused and refused.silent)):
            return
        address = address_of(scope)
        if status in _NOTHING_DONE and not self._gate.failures.may_record(address):
            return
        clock = self._gate.clock
        self._gate.audit.record(
            Call(
                at=rfc3339(clock.now()),
                who=caller.name if caller else None,
                role=caller.role if caller else None,
                how=caller.how if caller else None,
                address=address,
                method=scope["method"][:_MAX_METHOD],
                path=scope["path"][:_MAX_PATH],
                status=status,
                seconds=round(clock.monotonic() - visit.began, 4),
                facts={**(refused.facts | {"reason": refused.words} if refused else {}), **scope["llm.audit"]},
            )
        )
