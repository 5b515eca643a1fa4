"""`POST /token`: exchanges an API key for a token."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.api.access.access_control import access_control
from llm_scheduler.api.access.roles import Caller, Role, caller
from llm_scheduler.api.http.context import json_answer
from llm_scheduler.api.http.operation import Answer, Body, Operation
from llm_scheduler.api.http.problems import ProblemError

_MAX_BYTES = 1024


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the token is for. By default it has the role of the key and the longest lifetime."""

    role: Annotated[Role, Meta(description="The token's role: at most that of the key.")] | None = None
    expires_in: Annotated[int, Meta(ge=1, le=2**31, description="Seconds; at most security.jwt_expiration.")] | None = (
        None
    )


class AccessToken(msgspec.Struct, frozen=True):
    """A token, to be sent as `Authorization: Bearer ...`."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: Annotated[int, Meta(description="Seconds.")]
    role: Role


async def create_token(request: Request) -> Response:
    """Exchange an API key for a token.

    The token expires after a while, and is never valid longer than the key: revoking the key ends it at once.
    """
    access = access_control(request.scope)
    who = caller(request)
    if not access.security.jwt_enabled:
        raise ProblemError(
            409, "This server accepts no tokens: security.jwt_enabled is false. Send the API key itself."
        )
    if who.how != "key":
        raise ProblemError(403, "A token is made with an API key, not with another token. Send X-API-Key.")
    asked = await _body(request)
    role, seconds = _granted(who, asked, access.tokens.max_seconds)
    holder = access.keys.holder_named(who.name)
    if holder is None:
        raise ProblemError(403, "This API key was revoked just now.")
    request.scope["llm.audit"].update(role=role, expires_in=seconds)
    token = AccessToken(access.tokens.issue(holder, role, seconds), "bearer", seconds, role)
    return json_answer(token, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})


def _granted(who: Caller, asked: TokenRequest, max_seconds: int) -> tuple[Role, int]:
    role = asked.role or who.role
    if not who.role.includes(role):
        raise ProblemError(403, f"{who.name!r} has the role {who.role}; its tokens can't have {role}.", role=who.role)
    seconds = asked.expires_in or max_seconds
    if seconds > max_seconds:
        raise ProblemError(
            422,
            f"expires_in={seconds} is not allowed. Allowed: 1 to {max_seconds} (security.jwt_expiration).",
            parameter="expires_in",
            value=str(seconds),
            allowed=f"a whole number from 1 to {max_seconds}",
        )
    return role, seconds


async def _body(request: Request) -> TokenRequest:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_BYTES:
            raise ProblemError(413, f"The request is larger than {_MAX_BYTES} bytes.", limit=_MAX_BYTES)
    if not body:
        return TokenRequest()
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind != "application/json":
        raise ProblemError(415, "The body must be application/json, or empty.")
    try:
        return msgspec.json.decode(body, type=TokenRequest)
    except msgspec.ValidationError as error:
        raise ProblemError(422, f"The body can't be used: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProblemError(400, f"The body is not JSON: {error}.") from None


_ANSWERS = {200: Answer(AccessToken, "The token.")}
_BODY = Body({"application/json": TokenRequest}, required=False)
OPERATIONS = (Operation("POST", "/token", create_token, "access", _ANSWERS, body=_BODY, problems=(409,)),)
