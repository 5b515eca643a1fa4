"""What the guard needs: keys, tokens, failed attempts, and the audit log. One of each for an application."""

from dataclasses import dataclass

from redis import Redis
from starlette.types import Scope

from llm_scheduler.api.access.api_keys import KeyRing
from llm_scheduler.api.access.audit_log import AuditLog
from llm_scheduler.api.access.failures import FailedAttempts
from llm_scheduler.api.access.tokens import Tokens
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config, Security


@dataclass(frozen=True)
class AccessControl:
    """Made by `make_access_control`. To be closed when the application ends."""

    security: Security
    clock: Clock
    keys: KeyRing
    tokens: Tokens
    failures: FailedAttempts
    audit: AuditLog

    @property
    def is_open(self) -> bool:
        """Whether neither keys nor tokens are needed: then only this machine is served."""
        return not (self.security.api_key_enabled or self.security.jwt_enabled)

    def close(self) -> None:
        """Write what is left of the audit log. Redis must be reachable until then."""
        self.audit.close()


def make_access_control(config: Config, redis: Redis | None, clock: Clock) -> AccessControl:
    """The access control of an application. Only `GET /audit` needs `redis`."""
    keys = KeyRing(config.security, clock)
    tokens = Tokens(config.security, keys, clock)
    return AccessControl(config.security, clock, keys, tokens, FailedAttempts(), AuditLog(redis))


def access_control(scope: Scope) -> AccessControl:
    """The access control that a request has passed."""
    found = scope["llm.access_control"]
    assert isinstance(found, AccessControl)
    return found
