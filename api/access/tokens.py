"""Tokens: what a key is exchanged for, good for a while. A JWT (RFC 7519) signed with HS256 and nothing else."""

import hashlib
import hmac
from typing import Any, Literal

import jwt
import msgspec

from llm_scheduler.api.access.api_keys import Holder, KeyRing
from llm_scheduler.api.access.roles import Caller, Role
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Security

ISSUER = "llm-api"
LEEWAY_SECONDS = 5  # between the clocks of hosts that share a secret
_ALGORITHM = "HS256"
_MARK_DIGITS = 16


class TokenRefused(Exception):
    """A token that opens nothing; the words say why. `forged`: it wasn't signed here, so somebody may be trying."""

    def __init__(self, words: str, *, forged: bool = False) -> None:
        super().__init__(words)
        self.forged = forged


class _Claims(msgspec.Struct, frozen=True):
    """What a token says. `key` marks the key that it was made with: another of the same name is not that one."""

    iss: Literal["llm-api"]
    sub: str
    role: Role
    iat: int
    exp: int
    nbf: int | None = None
    key: str | None = None


class Tokens:
    """Signs tokens and reads them. One is worth no more than its key is at the time it is shown."""

    def __init__(self, security: Security, ring: KeyRing, clock: Clock) -> None:
        self._secret = security.jwt_secret
        self._seconds = security.jwt_expiration
        self._ring = ring
        self._clock = clock
        # The times are checked here, by the clock that was given.
        self._jwt = jwt.PyJWT({"verify_exp": False, "verify_iat": False, "verify_nbf": False})

    @property
    def longest(self) -> int:
        """The most seconds that a token may be good for."""
        return self._seconds

    def issue(self, holder: Holder, role: Role, seconds: int) -> str:
        """A token with which `holder` may do what `role` may."""
        now = int(self._clock.now())
        claims = {
            "iss": ISSUER,
            "sub": holder.name,
            "role": role.value,
            "iat": now,
            "exp": now + seconds,
            "key": self._mark(holder),
        }
        return self._jwt.encode(claims, self._secret, algorithm=_ALGORITHM)

    def caller(self, token: str, address: str) -> Caller:
        """Who shows `token`. Raises `TokenRefused`."""
        claims = self._read(token)
        now = self._clock.now()
        # By the issue, too: a shorter security.jwt_expiration counts for the tokens that are out there.
        if now >= min(claims.exp, claims.iat + self._seconds) + LEEWAY_SECONDS:
            raise TokenRefused("The token has expired. Get another at POST /token.")
        if max(claims.iat, claims.nbf or 0) > now + LEEWAY_SECONDS:
            raise TokenRefused("The token is of the future: a clock is wrong, this server's or its maker's.")
        holder = self._ring.named(claims.sub)
        if holder is None or holder.expired(now) or claims.key not in (None, self._mark(holder)):
            raise TokenRefused("The key that this token was made with is not valid any more.")
        if not holder.role.includes(claims.role):
            raise TokenRefused("The key that this token was made with may do less now than the token says.")
        return Caller(claims.sub, claims.role, "token", address)

    def _read(self, token: str) -> _Claims:
        try:
            said: dict[str, Any] = self._jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],  # pinned: the token's own word on it counts for nothing
                issuer=ISSUER,
                options={"require": ["exp", "iat", "sub", "role", "iss"]},
            )
            return msgspec.convert(said, _Claims)
        except (jwt.PyJWTError, msgspec.ValidationError):
            raise TokenRefused("The token is not one that this server has signed.", forged=True) from None

    def _mark(self, holder: Holder) -> str:
        """What tells this key from an older one of its name. Without the secret it says nothing about the key."""
        made = hmac.new(self._secret.encode(), f"key {holder.digest}".encode(), hashlib.sha256)
        return made.hexdigest()[:_MARK_DIGITS]
