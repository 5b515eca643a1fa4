"""Clients for Redis with bounded waits, and the explanation of their errors."""

import os
from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.exceptions import AuthenticationError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as LostConnection
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool, SentinelManagedConnection

from llm_scheduler.jobs.config.sentinel_address import SentinelAddress, sentinel_address

# The exceptions when Redis is away: no answer, or the answer that it cannot write now (it is loading its file, its disk
# is full, it is a replica). The work waits in each case; it is never given up.
AWAY = (RedisError, OSError)

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 20.0  # longer than any blocking command that is sent
SENTINEL_SECONDS = 1.0  # a sentinel answers from memory; one that does not is skipped


def connect(url: str, answer_seconds: float = ANSWER_SECONDS, kind: type[Redis] = Redis) -> Redis:
    """A client of `kind` for `url`: a server, or with `redis+sentinel://` the server that is the master at the time.

    Nothing is sent yet, and no command is ever repeated: only the caller can find out whether the server had carried
    it out when the connection broke. (A connection that a restarted server has closed is noticed before its use.)
    Raises ValueError for an address of an unknown form.
    """
    bounds: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": answer_seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    # TCP notices a host that has disappeared; a unix socket has no such option.
    if not url.startswith("unix:"):
        bounds["socket_keepalive"] = True
    address = sentinel_address(url)
    client = kind.from_url(url, **bounds) if address is None else kind.from_pool(_master_pool(address, bounds))
    pool: Any = client.connection_pool
    pool.key_prefix = key_prefix(os.environ)  # every client and pipeline of this pool finds it (store/keys.py)
    return client


class KeyPrefixError(ValueError):
    """`RQ_KEY_PREFIX` gives RQ another prefix than the project's keys could have."""


def key_prefix(environ: Mapping[str, str]) -> str:
    """What all keys of this process's spool begin with: `RQ_KEY_PREFIX` without the `rq` at its end. RQ reads the same
    variable, so that its keys and the project's have one prefix. Raises KeyPrefixError when it does not end in `rq`."""
    rq = environ.get("RQ_KEY_PREFIX", "rq")
    if not rq.endswith("rq"):
        raise KeyPrefixError(f"RQ_KEY_PREFIX is {rq!r}. It must end in 'rq', for example '{{s1}}:rq'.")
    return rq.removesuffix("rq")


def explain(error: Exception) -> str:
    """An error from Redis in one line for people, without passwords and without the command's arguments."""
    if isinstance(error, AuthenticationError):
        return "Redis refuses the password or user in queue.redis_url"
    return refusal(error) or (_bare(error) or type(error).__name__).splitlines()[0][:200].rstrip(". ")


def refusal(error: Exception) -> str | None:
    """Why a Redis that answers refuses writes, and what to do about it; None for any other error."""
    if isinstance(error, OutOfMemoryError):
        return "it is full (maxmemory is reached). Raise its maxmemory, or delete what others keep in it"
    if isinstance(error, ReadOnlyError):
        return "it is a read-only replica. Let queue.redis_url name the master"
    if _bare(error).startswith("MISCONF"):
        return "it can't write its own file. Look at its log, and at the disk it saves to"
    return None


def _bare(error: Exception) -> str:
    """The server's own message. In a pipeline the client puts the command in front of it, with its documents."""
    text = str(error).strip()
    return text.rpartition(" of pipeline caused error: ")[2] if text.startswith("Command # ") else text


def _master_pool(address: SentinelAddress, bounds: dict[str, Any]) -> SentinelConnectionPool:
    options = parse_url(address.server)  # type: ignore[no-untyped-call]
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
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
    return _MasterPool(address.service, sentinels, **{**bounds, **options}, connection_class=kind)  # type: ignore[no-untyped-call]


class _Sentinels(Sentinel):
    """Asks the sentinels in turn. The error says in one sentence why none of them knows the master."""

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
                    # This sentinel is asked first the next time.
                    self.sentinels[0], self.sentinels[place] = sentinel, self.sentinels[0]
                    return state["ip"], state["port"]
                else:
                    troubles.append("say that it is down")
        counts = ", ".join(f"{troubles.count(trouble)} {trouble}" for trouble in dict.fromkeys(troubles))
        raise MasterNotFoundError(f"There is no master of {service_name!r}; of {len(troubles)} sentinels {counts}")


class _MasterPool(SentinelConnectionPool):
    """The connections to the master, closed together with those to the sentinels."""

    def close(self) -> None:
        super().close()
        self.sentinel_manager.close()


class _MasterConnection(SentinelManagedConnection):
    """A connection that asks the sentinels again when its server is no longer the master.

    redis-py does so after READONLY, the answer of a former master that knows it. One that is cut off from its replicas
    and the sentinels does not know; with `min-replicas-to-write` it answers NOREPLICAS.
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
