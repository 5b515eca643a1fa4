"""`GET /audit`: the record of calls."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request

from llm_scheduler.api.access.access_control import access_control
from llm_scheduler.api.access.audit_log import read_calls
from llm_scheduler.api.access.roles import Role
from llm_scheduler.api.http.context import api_context
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.http.query import refuse

_CURSOR = re.compile(r"[1-9][0-9]{0,14}-[0-9]{1,10}")


class AuditQuery(msgspec.Struct, frozen=True):
    who: Annotated[str, Meta(max_length=64, description="Only calls with this key.")] | None = None
    method: Annotated[str, Meta(pattern="^[A-Z]{1,20}$", description="Only calls with this method.")] | None = None
    status: Annotated[int, Meta(ge=100, le=599, description="Only calls with this status.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=500, description="The size of the page.")] = 50
    cursor: (
        Annotated[str, Meta(pattern=f"^{_CURSOR.pattern}$", description="The `cursor` of the previous answer.")] | None
    ) = None


class AuditEntry(msgspec.Struct, frozen=True):
    """A call: who made it, from where, and how it ended. `who`, `role` and `how` are null if the caller was not
    authenticated; `facts` are details of the operation."""

    id: str
    at: str
    who: str | None
    role: Role | None
    how: Literal["key", "token", "local"] | None
    address: str
    method: str
    path: str
    status: int
    seconds: float
    facts: dict[str, Any]


class AuditPage(msgspec.Struct, frozen=True):
    """Calls, newest first. While `cursor` is not null there may be more, even if this page has few calls or none."""

    calls: list[AuditEntry]
    cursor: str | None


def list_audit(request: Request, query: AuditQuery) -> AuditPage:
    """Who changed what: every call that could change something, and every refused one, newest first."""
    if query.cursor is not None and not _CURSOR.fullmatch(query.cursor):
        refuse("cursor", query.cursor, "the `cursor` of the previous answer")
    access_control(request.scope).audit.flush()
    redis = api_context(request).redis
    page = read_calls(
        redis, who=query.who, method=query.method, status=query.status, limit=query.limit, cursor=query.cursor
    )
    calls = [AuditEntry(call_id, **msgspec.structs.asdict(call)) for call_id, call in page.calls]
    return AuditPage(calls, page.cursor)


_ANSWERS = {200: Answer(AuditPage, "Calls, newest first.")}
OPERATIONS = (
    Operation("GET", "/audit", list_audit, "access", _ANSWERS, role=Role.ADMIN, query=AuditQuery, needs_redis=True),
)
