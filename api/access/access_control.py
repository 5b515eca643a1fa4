"""What the guard works with: keys, tokens, failed attempts, and the record. One of each for an application."""

from dataclasses import dataclass

from redis import Redis
from starlette.types import Scope

from llm_scheduler.api.access.api_keys import KeyRing
from llm_scheduler.api.access.audit import Audit
from llm_scheduler.api.access.failures import Failures
from llm_scheduler.api.access.tokens import Tokens
from llm_scheduler.jobs.clock import Clock
from llm_scheduler.jobs.config import Config, Security


@dataclass(frozen=True)
class Gatehouse:
    """See `make_gatehouse`. To be closed when the application ends."""

    security: Security
    clock: Clock
    ring: KeyRing
    tokens: Tokens
    failures: Failures
    audit: Audit

    def close(self) -> None:
        """Write what is still to be recorded. Redis has to be there until then."""
        self.audit.close()


def make_gatehouse(config: Config, redis: Redis | None, clock: Clock) -> Gatehouse:
    """The gatehouse of an application. `redis` keeps the record for `GET /audit`; all else works without it."""
    ring = KeyRing(config.security, clock)
    tokens = Tokens(config.security, ring, clock)
    return Gatehouse(config.security, clock, ring, tokens, Failures(), Audit(redis))


def gatehouse(scope: Scope) -> Gatehouse:
    """The gatehouse that a request has passed."""
    found = scope["llm.gatehouse"]
    assert isinstance(found, Gatehouse)
    return found
