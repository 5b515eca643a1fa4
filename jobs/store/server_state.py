"""What a server says of itself that decides whether jobs are safe in it: its memory, its policy, its role."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import ResponseError

# What ingest leaves free of `maxmemory`, for what becomes of the documents that are in Redis already.
RESERVE_SHARE = 0.1
MAX_RESERVE = 256 * 1024 * 1024
KEEPS_JOBS = "noeviction"


class Condition(NamedTuple):
    """Of its memory a server has `used` bytes out of `most`; a `most` of 0 means no limit. `policy` says what it does
    when there are no more; a `replica` takes no writes."""

    used: int = 0
    most: int = 0
    policy: str = KEEPS_JOBS
    replica: bool = False

    @property
    def spare(self) -> float:
        """How many bytes ingest may bring in; less than 0 when it has to hold back."""
        if not self.most:
            return float("inf")
        return self.most - self._reserve - self.used

    @property
    def is_short(self) -> bool:
        """Whether ingest has to hold back soon: time to forget what is finished."""
        return self.spare < self._reserve

    @property
    def _reserve(self) -> float:
        return min(RESERVE_SHARE * self.most, MAX_RESERVE)

    def trouble(self) -> str | None:
        """What a person should hear of and mend; None when all is well."""
        filled = f"used {_megabytes(self.used)} of maxmemory {_megabytes(self.most)}"
        if self.replica:
            return "Redis is a read-only replica: let queue.redis_url name the master."
        if self.most and self.used >= self.most:
            return (
                f"Redis is full ({filled}): raise maxmemory, or delete what others keep in it. "
                "No more documents are taken; those in flight are finished."
            )
        if self.spare < 0:
            return (
                f"Redis is nearly full ({filled}): raise maxmemory, or delete what others keep in it. "
                "No more documents are taken until there is room."
            )
        return self.risk()

    def risk(self) -> str | None:
        """How this server might lose jobs."""
        if self.policy == KEEPS_JOBS:
            return None
        return (
            f"Redis deletes jobs when its memory is full: its maxmemory-policy is {self.policy}. "
            f"Set it to {KEEPS_JOBS}: redis-cli CONFIG SET maxmemory-policy {KEEPS_JOBS}, "
            "and the same in its configuration file."
        )


def look(redis: Redis) -> Condition:
    """How the server of `redis` is, in one round trip; as if it were well where it may not be asked."""
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.info("memory")
        pipeline.info("replication")
        memory, role = pipeline.execute(raise_on_error=False)
    return of(memory, role)


def of(memory: Any, role: Any = None) -> Condition:
    """From the answers to INFO memory and INFO replication, of which each may be an error.

    Raises an error that isn't the server's answer to being asked.
    """
    for answer in (memory, role):
        if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            raise answer
    said: Mapping[str, Any] = memory if isinstance(memory, Mapping) else {}
    replication: Mapping[str, Any] = role if isinstance(role, Mapping) else {}
    return Condition(
        # The server doesn't count what it owes its replicas and its file against `maxmemory`.
        used=int(said.get("used_memory", 0)) - int(said.get("mem_not_counted_for_evict", 0)),
        most=int(said.get("maxmemory", 0)),
        policy=str(said.get("maxmemory_policy", KEEPS_JOBS)),
        replica=replication.get("role") == "slave" and bool(replication.get("slave_read_only", 1)),
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
