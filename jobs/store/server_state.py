"""The state of the Redis server that decides whether jobs are safe in it: its memory, its policy, its role."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import ResponseError

# What ingest leaves free of `maxmemory`, so that the documents in Redis can be finished.
RESERVE_SHARE = 0.1
MAX_RESERVE = 256 * 1024 * 1024
KEEPS_JOBS = "noeviction"


class ServerState(NamedTuple):
    """`used` of `limit` bytes of memory; a `limit` of 0 means none. `policy`: what the server does at the limit. A
    `replica` takes no writes."""

    used: int = 0
    limit: int = 0
    policy: str = KEEPS_JOBS
    replica: bool = False

    @property
    def spare(self) -> float:
        """How many bytes ingest may add; negative: it must hold back."""
        if not self.limit:
            return float("inf")
        return self.limit - self._reserve - self.used

    @property
    def is_short(self) -> bool:
        """Whether ingest must hold back soon: time to forget finished documents."""
        return self.spare < self._reserve

    @property
    def _reserve(self) -> float:
        return min(RESERVE_SHARE * self.limit, MAX_RESERVE)

    def trouble(self) -> str | None:
        """What is wrong and what to do; None when all is well."""
        filled = f"used {_megabytes(self.used)} of maxmemory {_megabytes(self.limit)}"
        if self.replica:
            return "Redis is a read-only replica: let queue.redis_url name the master."
        if self.limit and self.used >= self.limit:
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
        """How this server might lose jobs; None when it cannot."""
        if self.policy == KEEPS_JOBS:
            return None
        return (
            f"Redis deletes jobs when its memory is full: its maxmemory-policy is {self.policy}. "
            f"Set it to {KEEPS_JOBS}: redis-cli CONFIG SET maxmemory-policy {KEEPS_JOBS}, "
            "and the same in its configuration file."
        )


def read_state(redis: Redis) -> ServerState:
    """The state of the server, in one round trip. Where INFO is forbidden, a server without fault is assumed."""
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.info("memory")
        pipeline.info("replication")
        memory, role = pipeline.execute(raise_on_error=False)
    return parse(memory, role)


def parse(memory: Any, role: Any = None) -> ServerState:
    """The state from the answers to INFO memory and INFO replication; each may be a ResponseError, which is ignored.
    Raises any other error."""
    for answer in (memory, role):
        if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            raise answer
    said: Mapping[str, Any] = memory if isinstance(memory, Mapping) else {}
    replication: Mapping[str, Any] = role if isinstance(role, Mapping) else {}
    return ServerState(
        # The server does not count buffers for replicas and its append-only file against `maxmemory`.
        used=int(said.get("used_memory", 0)) - int(said.get("mem_not_counted_for_evict", 0)),
        limit=int(said.get("maxmemory", 0)),
        policy=str(said.get("maxmemory_policy", KEEPS_JOBS)),
        replica=replication.get("role") == "slave" and bool(replication.get("slave_read_only", 1)),
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
