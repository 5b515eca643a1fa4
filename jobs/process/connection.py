"""The one way to Redis: a client with bounded waits, and words for when it is away."""

from typing import Any

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.exceptions import AuthenticationError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as LostConnection
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool, SentinelManagedConnection

from llm_scheduler.jobs.config.sentinel_address import SentinelAddress, sentinel_address

# What "Redis is away" looks like to a daemon: no answer, or the answer that it can't write now
# (loading its file, its disk full, a replica). Either way the work waits; it is never given up.
AWAY = (RedisError, OSError)

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 20.0  # longer than any blocking command that is sent
SENTINEL_SECONDS = 1.0  # a sentinel answers from memory or is no use; the next one is asked


def connect(url: str, answer_seconds: float = ANSWER_SECONDS, kind: type[Redis] = Redis) -> Redis:
    """A client of `kind` for `url`: a server's, or `redis+sentinel://` for whichever server is the master at the time.

    Nothing is sent yet, and nothing is ever sent twice: whether the server had done what broke off only the caller can
    find out. (A connection that a restarted server dropped is noticed before it is used.) Raises ValueError for an
    address of no known form.
    """
    bounds: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": answer_seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    # Over TCP a host that vanished without a word is noticed; a unix socket knows no such thing.
    if not url.startswith("unix:"):
        bounds["socket_keepalive"] = True
    address = sentinel_address(url)
    if address is None:
        return kind.from_url(url, **bounds)
    return kind.from_pool(_master_pool(address, bounds))


def master_of(redis: Redis) -> tuple[str, int] | None:
    """The server that `redis` talks to behind Sentinel, as of its last connection; None without Sentinel."""
    pool: ConnectionPool = redis.connection_pool
    return pool.master_address if isinstance(pool, SentinelConnectionPool) else None


def explain(error: Exception) -> str:
    """An error from Redis in one line for a person, without the address's password and what a command carried."""
    if isinstance(error, AuthenticationError):
        return "Redis refuses the password or user in queue.redis_url"
    refused = refusal(error)
    if refused is not None:
        return refused
    return (_bare(error) or type(error).__name__).splitlines()[0][:200].rstrip(". ")


def refusal(error: Exception) -> str | None:
    """Why a Redis that answers won't be written to, and what to do about it; None when `error` says anything else."""
    if isinstance(error, OutOfMemoryError):
        return "it is full (maxmemory is reached). Raise its maxmemory, or delete what others keep in it"
    if isinstance(error, ReadOnlyError):
        return "it is a read-only replica. Let queue.redis_url name the master"
    if _bare(error).startswith("MISCONF"):
        return "it can't write its own file. Look at its log, and at the disk it saves to"
    return None


def _bare(error: Exception) -> str:
    """What the server said. In front of it the client puts the command, a document and all."""
    text = str(error).strip()
    return text.rpartition(" of pipeline caused error: ")[2] if text.startswith("Command # ") else text


# Sentinel


def _master_pool(address: SentinelAddress, bounds: dict[str, Any]) -> SentinelConnectionPool:
    told = parse_url(address.server)  # type: ignore[no-untyped-call]
    for name in ("host", "port", "connection_class"):
        told.pop(name, None)
    tls = {name: value for name, value in told.items() if name.startswith("ssl_")}
    sentinels = _Sentinels(  # type: ignore[no-untyped-call]
        address.sentinels,
        sentinel_kwargs={
            "username": address.username,
            "password": address.password,
            "socket_connect_timeout": SENTINEL_SECONDS,
            "socket_timeout": SENTINEL_SECONDS,
            "retry": Retry(NoBackoff(), 0),  # the next sentinel is the retry
            "ssl": address.secure,
            **tls,
        },
    )
    kind = _SecureMasterConnection if address.secure else _MasterConnection
    options = {**bounds, **told, "connection_class": kind}
    return _MasterPool(address.service, sentinels, **options)  # type: ignore[no-untyped-call]


class _Sentinels(Sentinel):
    """Sentinels, one of which is asked; says in a sentence why none can tell."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        troubles: list[str] = []
        for place, sentinel in enumerate(list(self.sentinels)):
            try:
                masters: Any = sentinel.sentinel_masters()
            except AuthenticationError:
                troubles.append("refuse sentinel_username or sentinel_password of queue.redis_url")
            except AWAY as error:
                troubles.append(f"did not answer ({explain(error).rstrip('.')})")
            else:
                state = masters.get(service_name)
                if state is None:
                    troubles.append("watch no service of that name")
                elif self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                    # Who could tell is asked first the next time.
                    self.sentinels[0], self.sentinels[place] = sentinel, self.sentinels[0]
                    return state["ip"], state["port"]
                else:
                    troubles.append("say that it is down")
        told = ", ".join(f"{troubles.count(what)} {what}" for what in dict.fromkeys(troubles))
        raise MasterNotFoundError(f"There is no master of {service_name!r}; of {len(troubles)} sentinels {told}")


class _MasterPool(SentinelConnectionPool):
    """The connections to the master; closing it lets go of the sentinels too."""

    def close(self) -> None:
        super().close()
        self.sentinel_manager.close()


class _MasterConnection(SentinelManagedConnection):
    """A connection that asks the sentinels again as soon as its server turns out not to be the master any more.

    redis-py does so for READONLY, which a deposed master says once it knows. One that was cut off from its replicas
    and the sentinels doesn't know; with `min-replicas-to-write` it says NOREPLICAS.
    """

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except ResponseError as error:
            if not str(error).startswith("NOREPLICAS"):
                raise
            self.disconnect()  # type: ignore[no-untyped-call]
            raise LostConnection(str(error)) from None


class _SecureMasterConnection(_MasterConnection, SSLConnection):
    """The same over TLS."""
