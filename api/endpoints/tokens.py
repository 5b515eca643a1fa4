"""`POST /token` and `GET /audit`."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.access.access_control import gatehouse
from llm_scheduler.api.access.audit import page
from llm_scheduler.api.access.roles import Caller, Role, caller
from llm_scheduler.api.http.context import answer, asks_redis, site
from llm_scheduler.api.http.operation import Answer, Body, Nothing, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.api.http.query import refuse

_MAX_BYTES = 1024
_CURSOR = re.compile(r"[1-9][0-9]{0,14}-[0-9]{1,10}")


class TokenAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the token is to be good for; without a word, for all that the key is, and as long as may be."""

    role: Annotated[Role, Meta(description="What its bearer may do: no more than the key.")] | None = None
    expires_in: (
        Annotated[int, Meta(ge=1, le=2**31, description="Seconds; security.jwt_expiration is the most.")] | None
    ) = None


class TokenMade(msgspec.Struct, frozen=True):
    """A token, to be sent as `Authorization: Bearer ...`."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: Annotated[int, Meta(description="Seconds.")]
    role: Role


class AuditAsked(msgspec.Struct, frozen=True):
    who: Annotated[str, Meta(max_length=64, description="Only calls of this key.")] | None = None
    method: Annotated[str, Meta(pattern="^[A-Z]{1,20}$", description="Only calls with this method.")] | None = None
    status: Annotated[int, Meta(ge=100, le=599, description="Only calls that ended with this status.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=500, description="The most calls in one answer.")] = 50
    cursor: (
        Annotated[str, Meta(pattern=f"^{_CURSOR.pattern}$", description="What an earlier answer gave as its cursor.")]
        | None
    ) = None


class CallShown(msgspec.Struct, frozen=True):
    """A call: who, what, from where, and what came of it. `who`, `role` and `how` are null where nobody was known;
    `facts` is what the operation tells of it."""

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


class AuditShown(msgspec.Struct, frozen=True):
    """Calls, newest first. While `cursor` is not null there may be more, even behind an answer with few or none."""

    calls: list[CallShown]
    cursor: str | None


async def create_token(request: Request, query: Nothing) -> Response:
    """Exchange an API key for a token.

    The token holds for a while, and at most for as long as the key does: revoking the key ends it at once.
    """
    gate = gatehouse(request.scope)
    who = caller(request)
    if not gate.security.jwt_enabled:
        raise ProblemError(409, "This server takes no tokens: security.jwt_enabled is false. Send the API key itself.")
    if who.how != "key":
        raise ProblemError(403, "A token is made with an API key, not with another token. Send X-API-Key.")
    asked = await _asked(request)
    role, seconds = _granted(who, asked, gate.tokens.longest)
    holder = gate.ring.named(who.name)
    if holder is None:
        raise ProblemError(403, "This API key was revoked just now.")
    request.scope["llm.audit"].update(role=role, expires_in=seconds)
    made = TokenMade(gate.tokens.issue(holder, role, seconds), "bearer", seconds, role)
    return answer(made, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})


def _granted(who: Caller, asked: TokenAsked, longest: int) -> tuple[Role, int]:
    role = asked.role or who.role
    if not who.role.includes(role):
        raise ProblemError(403, f"{who.name!r} has the role {who.role}; its tokens can't have {role}.", role=who.role)
    seconds = asked.expires_in or longest
    if seconds > longest:
        raise ProblemError(
            422,
            f"expires_in={seconds} is not allowed. Allowed: 1 to {longest} (security.jwt_expiration).",
            parameter="expires_in",
            value=str(seconds),
            allowed=f"a whole number from 1 to {longest}",
        )
    return role, seconds


async def _asked(request: Request) -> TokenAsked:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_BYTES:
            raise ProblemError(413, f"The request is larger than {_MAX_BYTES} bytes.", limit=_MAX_BYTES)
    if not body:
        return TokenAsked()
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind != "application/json":
        raise ProblemError(415, "What is asked of a token is said as application/json, or not at all.")
    try:
        return msgspec.json.decode(body, type=TokenAsked)
    except msgspec.ValidationError as error:
        raise ProblemError(422, f"The body can't be used: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProblemError(400, f"The body is not JSON: {error}.") from None


@asks_redis
def list_audit(request: Request, query: AuditAsked) -> Response:
    """Who changed what: every call that could change something, and who was turned away, newest first."""
    if query.cursor is not None and not _CURSOR.fullmatch(query.cursor):
        refuse("cursor", query.cursor, "what an earlier answer gave as its cursor")
    gatehouse(request.scope).audit.flush()
    found = page(
        site(request).redis,
        who=query.who,
        method=query.method,
        status=query.status,
        limit=query.limit,
        cursor=query.cursor,
    )
    calls = [CallShown(call_id, **msgspec.structs.asdict(call)) for call_id, call in found.calls]
    return answer(AuditShown(calls, found.cursor))


OPERATIONS = (
    Operation(
        method="POST",
        path="/token",
        endpoint=create_token,
        tag="access",
        body=Body({"application/json": TokenAsked}, required=False),
        answers={200: Answer(TokenMade, "The token.")},
        problems=(409,),
    ),
    Operation(
        method="GET",
        path="/audit",
        endpoint=list_audit,
        tag="access",
        role=Role.ADMIN,
        query=AuditAsked,
        answers={200: Answer(AuditShown, "Calls, newest first.")},
        problems=(503,),
    ),
)
