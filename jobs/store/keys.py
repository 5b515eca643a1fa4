"""The name of every Redis key of the project, of RQ and of rq-scheduler: the only place that spells one.

All names of a spool begin with its key prefix, which is empty unless `RQ_KEY_PREFIX` says otherwise. A prefix with a
hash tag (`{s1}:`) puts all keys of a spool on one slot of a Redis Cluster. RQ reads that variable by itself
(https://python-rq.org/docs/), so `RQ_KEY_PREFIX='{s1}:rq' rq info` shows the same queues.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from redis import Redis

_PLACEHOLDER = re.compile(r"<(\w+)>")


class _Name:
    """The name of one key."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, keys: "Keys", owner: type["Keys"]) -> str:
        return keys.prefix + self._name


@dataclass(frozen=True)
class Keys:
    """The key names of the spool with this prefix."""

    prefix: str = ""

    # RQ's and rq-scheduler's. `schedule`: a sorted set of job ids by the epoch second at which each is due. The value
    # of `scheduler_lock` begins with the name of its holder. A scheduler's own key begins with `scheduler_instances`.
    queues = _Name("rq:queues")
    workers = _Name("rq:workers")
    suspended = _Name("rq:suspended")
    schedule = _Name("rq:scheduler:scheduled_jobs")
    scheduler = _Name("rq:scheduler")
    scheduler_lock = _Name("rq:scheduler_lock")
    scheduler_instances = _Name("rq:scheduler_instance:")

    # The ledger. `in_flight_bytes`: the size of what is in flight, for back-pressure. `pace`: seconds that a worker
    # takes for a document, by level (a moving average). Without `epoch`, Redis has been emptied: ingest sets it when it
    # has recovered.
    in_flight_bytes = _Name("llm:inflight:bytes")
    pace = _Name("llm:pace")
    epoch = _Name("llm:epoch")
    transitions = _Name("llm:transitions")

    # Commands. `cancelled`: documents that no worker runs any more, by the time at which they were cancelled.
    commands = _Name("llm:orders")
    paused = _Name("llm:paused")
    restart = _Name("llm:restart")
    cancelled = _Name("llm:cancelled")

    # What is watched and counted
    events = _Name("llm:events")
    alerts = _Name("llm:alerts")
    totals = _Name("llm:tallies")

    # The API and the autoscaler. `GET /ready` writes `ready_probe`, to see that Redis takes writes.
    audit = _Name("llm:audit")
    ready_probe = _Name("llm:ready")
    autoscale = _Name("llm:autoscale")
    autoscale_lock = _Name("llm:autoscale:lock")

    def job(self, job_id: str) -> str:
        return f"{self.prefix}rq:job:{job_id}"

    def queue(self, queue: str) -> str:
        return f"{self.prefix}rq:queue:{queue}"

    def intermediate(self, queue: str) -> str:
        """RQ's list of the jobs that a worker has taken from `queue` and not begun."""
        return f"{self.queue(queue)}:intermediate"

    def begun(self, queue: str) -> str:
        """RQ's registry of the jobs of `queue` that a worker has begun; members are `<job>:<execution>`."""
        return f"{self.prefix}rq:wip:{queue}"

    def execution(self, job_id: str, execution: str) -> str:
        return f"{self.prefix}rq:execution:{job_id}:{execution}"

    def executions(self, job_id: str) -> str:
        return f"{self.prefix}rq:executions:{job_id}"

    def worker(self, name: str) -> str:
        return f"{self.prefix}rq:worker:{name}"

    def worker_executions(self, name: str) -> str:
        return f"{self.worker(name)}:executions"

    def workers_of(self, queue: str) -> str:
        return f"{self.prefix}rq:workers:{queue}"

    def record(self, document_id: str) -> str:
        return f"{self.prefix}llm:d:{document_id}"

    def status_set(self, status: str, level: str) -> str:
        """The ids of the documents under a status and priority."""
        return f"{self.prefix}llm:ledger:{status}:{level}"

    def batch(self, queue: str) -> str:
        return f"{self.prefix}llm:batch:{queue}"

    def batch_times(self, queue: str) -> str:
        return f"{self.batch(queue)}:times"

    def outcomes(self, queue: str) -> str:
        """The stream for outcomes of `queue`. Each queue has its own: urgent outcomes do not wait behind others."""
        return f"{self.prefix}llm:outcomes:{queue}"

    def minute(self, minute: int) -> str:
        """The counters of one minute, counted from the epoch."""
        return f"{self.prefix}llm:minute:{minute}"

    def producers(self, day: str) -> str:
        """The counters of a day (`YYYYMMDD`, UTC) by producer."""
        return f"{self.prefix}llm:producers:{day}"

    def heartbeat(self, role: str) -> str:
        return f"{self.prefix}llm:process:{role}"

    def idempotency(self, digest: str) -> str:
        return f"{self.prefix}llm:idempotency:{digest}"


def keys_of(client: Redis) -> Keys:
    """The key names for `client`, a client or a pipeline: `connect` has given its connections their prefix."""
    return _keys(getattr(client.connection_pool, "key_prefix", ""))


@lru_cache(maxsize=16)
def _keys(prefix: str) -> Keys:
    return Keys(prefix)


@lru_cache(maxsize=256)
def script(keys: Keys, text: str) -> str:
    """The Lua script `text` with the beginnings of key names in place of `<record>`, `<job>` and `<transitions>`."""
    names = {"record": keys.record(""), "job": keys.job(""), "transitions": keys.transitions}
    names["status_set"] = keys.status_set("", "").removesuffix(":")
    return _PLACEHOLDER.sub(lambda found: names[found[1]], text)
