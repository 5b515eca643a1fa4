"""Tokens: short-lived credentials that a key is exchanged for. JWTs (RFC 7519), signed with HS256 only."""

import hashlib
import hmac
from typing import Literal

import jwt
import msgspec

from llm_scheduler.api.access.api_keys import KeyHolder, KeyRing
from llm_scheduler.api.access.roles import Caller, Role
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Security

LEEWAY_SECONDS = 5  # by which the clocks of hosts that share a secret may differ
_ALGORITHM = "HS256"


class TokenError(Exception):
    """The token is not valid; the text says why. `forged`: its signature is wrong, so it may be an attack."""

    def __init__(self, text: str, *, forged: bool = False) -> None:
        super().__init__(text)
        self.forged = forged


class _Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of a token. `key` identifies the key that it was made with among keys of the same name."""

    iss: Literal["llm-api"]
    sub: str
    role: Role
    iat: int
    exp: int
    nbf: int | None = None
    key: str | None = None


class Tokens:
    """Signs and verifies tokens. A token never allows more than its key does at that moment."""

    def __init__(self, security: Security, keys: KeyRing, clock: Clock) -> None:
        self.max_seconds = security.jwt_expiration
        self._secret = security.jwt_secret
        self._keys = keys
        self._clock = clock
        # The times are checked in `caller`, with `clock`.
        self._jwt = jwt.PyJWT({"verify_exp": False, "verify_iat": False, "verify_nbf": False})

    def issue(self, holder: KeyHolder, role: Role, seconds: int) -> str:
        """A token for `holder` with `role`, valid for `seconds`."""
        now = int(self._clock.now())
        claims = _Claims("llm-api", holder.name, role, iat=now, exp=now + seconds, key=self._key_mark(holder))
        return self._jwt.encode(msgspec.to_builtins(claims), self._secret, algorithm=_ALGORITHM)

    def caller(self, token: str) -> Caller:
        """The caller that shows `token`. Raises `TokenError`."""
        claims = self._read(token)
        now = self._clock.now()
        # `iat` too: a shortened security.jwt_expiration applies to tokens that were issued before.
        if now >= min(claims.exp, claims.iat + self.max_seconds) + LEEWAY_SECONDS:
            raise TokenError("The token has expired. Get another at POST /token.")
        if max(claims.iat, claims.nbf or 0) > now + LEEWAY_SECONDS:
            raise TokenError("The token is from the future: the clock of this server or of its issuer is wrong.")
        holder = self._keys.holder_named(claims.sub)
        if holder is None or holder.expired(now) or claims.key not in (None, self._key_mark(holder)):
            raise TokenError("The key that this token was made with is not valid any more.")
        if not holder.role.includes(claims.role):
            raise TokenError("The key that this token was made with now has a lower role than the token.")
        return Caller(claims.sub, claims.role, "token")

    def _read(self, token: str) -> _Claims:
        try:
            # The algorithm is pinned: the token's own `alg` is ignored.
            return msgspec.convert(self._jwt.decode(token, self._secret, algorithms=[_ALGORITHM]), _Claims)
        except (jwt.PyJWTError, msgspec.ValidationError):
            raise TokenError("The token is not one that this server has signed.", forged=True) from None

    def _key_mark(self, holder: KeyHolder) -> str:
        """Distinguishes this key from an older one of the same name. Without the secret it reveals nothing."""
        mark = hmac.new(self._secret.encode(), f"key {holder.digest}".encode(), hashlib.sha256)
        return mark.hexdigest()[:16]
