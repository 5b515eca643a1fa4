"""An asyncio client to the server that a synchronous client is connected to: over a unix socket, TCP, TLS, or Sentinel.

`jobs.process.connection` alone knows how to reach Redis; the settings are taken from the client that it made.
"""

from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter, to_thread
from redis import Redis
from redis.asyncio import Connection, ConnectionPool, SSLConnection
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.connection import AbstractConnection, UnixDomainSocketConnection
from redis.connection import SSLConnection as SyncSSLConnection
from redis.connection import UnixDomainSocketConnection as SyncUnixDomainSocketConnection
from redis.maint_notifications import MaintNotificationsConfig

# Settings that hold objects of the synchronous client.
_SYNC_ONLY = ("retry", "himport_registry", "maint_", "orig_")
_sentinel_threads = CapacityLimiter(4)


def async_client(redis: Redis, answer_seconds: float) -> AsyncRedis:
    """A client that waits `answer_seconds` for an answer and never sends a command twice. Nothing is sent yet."""
    pool = redis.connection_pool
    settings: dict[str, Any] = {
        name: value for name, value in pool.connection_kwargs.items() if not name.startswith(_SYNC_ONLY)
    }
    is_tls = issubclass(pool.connection_class, SyncSSLConnection)
    kind: type[AbstractConnection] = SSLConnection if is_tls else Connection
    if issubclass(pool.connection_class, SyncUnixDomainSocketConnection):
        kind = UnixDomainSocketConnection
    sentinels = settings.pop("connection_pool", None)
    if sentinels is not None:
        kind = _AsyncSecureMasterConnection if is_tls else _AsyncMasterConnection
        settings["find_master"] = sentinels.get_master_address
    settings["socket_timeout"] = answer_seconds
    quiet = MaintNotificationsConfig(enabled=False)
    return AsyncRedis.from_pool(ConnectionPool(kind, maint_notifications_config=quiet, **settings))


class _AsyncMasterConnection(Connection):
    """A connection that asks the sentinels for the master each time it connects. `find_master` blocks."""

    def __init__(self, *, find_master: Callable[[], tuple[str, int]], **settings: Any) -> None:
        super().__init__(**settings)
        self._find_master = find_master

    async def _connect(self) -> None:
        self.host, self.port = await to_thread.run_sync(
            self._find_master, limiter=_sentinel_threads, abandon_on_cancel=True
        )
        await super()._connect()  # type: ignore[no-untyped-call]


class _AsyncSecureMasterConnection(_AsyncMasterConnection, SSLConnection):
    """The same over TLS."""
