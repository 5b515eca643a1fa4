"""Who sends a request: told by the key or the token that it shows."""

from dataclasses import dataclass, field

from starlette.types import Scope

from llm_scheduler.api.access.access_control import Gatehouse
from llm_scheduler.api.access.api_keys import KEY_PREFIX, shown_part
from llm_scheduler.api.access.loopback import foreign
from llm_scheduler.api.access.roles import Caller, Role
from llm_scheduler.api.access.tokens import TokenRefused
from llm_scheduler.jobs.config import Security

TOKEN_PATH = "/token"  # noqa: S105

_KEY_HEADER = b"x-api-key"
_AUTHORIZATION = b"authorization"


@dataclass(frozen=True)
class Refusal:
    """Why a request does not pass. `silent`: it showed nothing at all, which is no attempt to get in."""

    status: int
    words: str
    headers: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    silent: bool = False


def address_of(scope: Scope) -> str:
    """Where a request comes from; behind a proxy, as the server was told by it."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def identify(scope: Scope, gate: Gatehouse) -> Caller | Refusal:
    """The caller, or why there is none."""
    security = gate.security
    if not (security.api_key_enabled or security.jwt_enabled):
        words = foreign(scope)
        return Refusal(403, words) if words else Caller("local", Role.ADMIN, "local", address_of(scope))
    token = _bearer(scope)
    keys = [value for name, value in scope["headers"] if name == _KEY_HEADER and value]
    if not keys and token is not None and token.startswith(KEY_PREFIX):
        keys = [token.encode("latin-1")]
    if keys:
        if not security.api_key_enabled and scope["path"] != TOKEN_PATH:
            return _unknown(
                security, "Here a token is needed: API keys are taken at POST /token only, which makes one."
            )
        if len(keys) > 1:
            return _unknown(security, "There is more than one X-API-Key. Send one.")
        return _by_key(scope, keys[0], gate)
    if token is not None and security.jwt_enabled:
        return _by_token(scope, token, gate)
    return _unknown(security, _needed(security), silent=token is None)


def _by_key(scope: Scope, given: bytes, gate: Gatehouse) -> Caller | Refusal:
    address = address_of(scope)
    holder = gate.ring.holder_of(given)
    part = shown_part(given)
    facts = {"key": part} if part else {}
    if holder is not None and holder.guessable and (seconds := gate.failures.waits(address)):
        return _too_many(seconds, facts)  # what who guesses wrong is told, too
    if holder is None:
        if not gate.failures.add(address):
            return _too_many(gate.failures.waits(address), facts)
        return _unknown(gate.security, "The API key is not one that this server knows.", facts)
    if holder.expired(gate.clock.now()):
        return _unknown(gate.security, "This API key has expired.", facts)
    return Caller(holder.name, holder.role, "key", address)


def _by_token(scope: Scope, token: str, gate: Gatehouse) -> Caller | Refusal:
    address = address_of(scope)
    try:
        return gate.tokens.caller(token, address)
    except TokenRefused as refused:
        if refused.forged and not gate.failures.add(address):
            return _too_many(gate.failures.waits(address), {})
        return _unknown(gate.security, str(refused))


def _bearer(scope: Scope) -> str | None:
    """The text of `Authorization: Bearer ...`; empty when there are several."""
    given = [value for name, value in scope["headers"] if name == _AUTHORIZATION]
    shown = [value[7:].strip().decode("latin-1") for value in given if value[:7].lower() == b"bearer "]
    return None if not shown else shown[0] if len(shown) == 1 else ""


def _needed(security: Security) -> str:
    if not security.jwt_enabled:
        return "An API key is needed: send it once, in the header X-API-Key."
    if not security.api_key_enabled:
        return "A token is needed: get one at POST /token with an API key, and send it as Authorization: Bearer ..."
    return "An API key is needed, in the header X-API-Key, or a token of POST /token, as Authorization: Bearer ..."


def _unknown(security: Security, words: str, facts: dict[str, str] | None = None, *, silent: bool = False) -> Refusal:
    ways = ['ApiKey header="X-API-Key"'] if security.api_key_enabled else []
    ways += ['Bearer realm="llm-api"'] if security.jwt_enabled else []
    return Refusal(401, words, {"WWW-Authenticate": ", ".join(ways)}, facts or {}, silent)


def _too_many(seconds: int, facts: dict[str, str]) -> Refusal:
    words = f"Too many failed attempts from this address. Try again in {max(1, seconds)} s; a right key needs no wait."
    return Refusal(429, words, {"Retry-After": str(max(1, seconds))}, facts)
