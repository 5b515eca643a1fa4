"""Access control: who sends a request, by its key or token, and what is needed to find out."""

from dataclasses import dataclass, field

from redis import Redis
from starlette.types import Scope

from llm_scheduler.api.access.api_keys import KEY_PREFIX, KeyRing, public_part
from llm_scheduler.api.access.audit_log import AuditLog
from llm_scheduler.api.access.failures import FailedAttempts
from llm_scheduler.api.access.loopback import loopback_refusal
from llm_scheduler.api.access.roles import Caller, Role
from llm_scheduler.api.access.tokens import TokenError, Tokens
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config, Security


class AccessControl:
    """What the guard needs; one for an application. Its `audit` log is to be closed when the application ends."""

    def __init__(self, config: Config, redis: Redis, clock: Clock) -> None:
        self.security = config.security
        self.clock = clock
        self.keys = KeyRing(config.security, clock)
        self.tokens = Tokens(config.security, self.keys, clock)
        self.failures = FailedAttempts()
        self.audit = AuditLog(redis)
        # Neither keys nor tokens are needed: then only this machine is served.
        self.is_open = not (config.security.api_key_enabled or config.security.jwt_enabled)


def access_control(scope: Scope) -> AccessControl:
    """The access control that a request has passed."""
    found = scope["llm.access_control"]
    assert isinstance(found, AccessControl)
    return found


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused. `silent`: it showed no credentials at all, so it is no failed attempt."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    silent: bool = False


def address_of(scope: Scope) -> str:
    """The client's address; behind a trusted proxy the one that it reports."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def identify(scope: Scope, access: AccessControl) -> Caller | Refusal:
    """The caller, or why there is none."""
    security = access.security
    if access.is_open:
        text = loopback_refusal(scope)
        return Refusal(403, text) if text else Caller("local", Role.ADMIN, "local")
    token = _bearer(scope)
    keys = [value for name, value in scope["headers"] if name == b"x-api-key" and value]
    if not keys and token is not None and token.startswith(KEY_PREFIX):
        keys = [token.encode("latin-1")]
    if keys:
        if not security.api_key_enabled and scope["path"] != "/token":
            return _unauthorized(security, "A token is needed here: API keys are accepted at POST /token only.")
        if len(keys) > 1:
            return _unauthorized(security, "There is more than one X-API-Key. Send one.")
        return _by_key(scope, keys[0], access)
    if token is not None and security.jwt_enabled:
        return _by_token(scope, token, access)
    return _unauthorized(security, _needed(security), silent=token is None)


def _by_key(scope: Scope, given: bytes, access: AccessControl) -> Caller | Refusal:
    address = address_of(scope)
    holder = access.keys.holder_of(given)
    part = public_part(given)
    facts = {"key": part} if part else {}
    if holder is not None and holder.guessable and (seconds := access.failures.blocked_seconds(address)):
        return _too_many(seconds, facts)  # the same answer as for a wrong key
    if holder is None:
        if not access.failures.add(address):
            return _too_many(access.failures.blocked_seconds(address), facts)
        return _unauthorized(access.security, "The API key is not one that this server knows.", facts)
    if holder.expired(access.clock.now()):
        return _unauthorized(access.security, "This API key has expired.", facts)
    return Caller(holder.name, holder.role, "key")


def _by_token(scope: Scope, token: str, access: AccessControl) -> Caller | Refusal:
    try:
        return access.tokens.caller(token)
    except TokenError as error:
        address = address_of(scope)
        if error.forged and not access.failures.add(address):
            return _too_many(access.failures.blocked_seconds(address), {})
        return _unauthorized(access.security, str(error))


def _bearer(scope: Scope) -> str | None:
    """The text of `Authorization: Bearer ...`; empty if there are several."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    shown = [value[7:].strip().decode("latin-1") for value in given if value[:7].lower() == b"bearer "]
    return None if not shown else shown[0] if len(shown) == 1 else ""


def _needed(security: Security) -> str:
    if not security.jwt_enabled:
        return "An API key is needed: send it once, in the header X-API-Key."
    if not security.api_key_enabled:
        return "A token is needed: get one at POST /token with an API key, and send it as Authorization: Bearer ..."
    return "An API key is needed, in the header X-API-Key, or a token of POST /token, as Authorization: Bearer ..."


def _unauthorized(
    security: Security, text: str, facts: dict[str, str] | None = None, *, silent: bool = False
) -> Refusal:
    ways = ['ApiKey header="X-API-Key"'] if security.api_key_enabled else []
    ways += ['Bearer realm="llm-api"'] if security.jwt_enabled else []
    return Refusal(401, text, {"WWW-Authenticate": ", ".join(ways)}, facts or {}, silent)


def _too_many(seconds: int, facts: dict[str, str]) -> Refusal:
    text = f"Too many failed attempts from this address. Try again in {max(1, seconds)} s; a right key needs no wait."
    return Refusal(429, text, {"Retry-After": str(max(1, seconds))}, facts)
