"""The one way to Redis: a client with bounded waits, and words for when it is away."""

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

# What "Redis is away" looks like to a daemon: no answer, or the answer that it can't write now
# (loading its file, its disk full, a replica). Either way the work waits; it is never given up.
AWAY = (RedisError, OSError)

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 20.0  # longer than any blocking command that is sent


def connect(url: str) -> Redis:
    """A client for `url`. Nothing is sent yet. One retry at once mends a connection that a restarted server dropped."""
    # Over TCP a host that vanished without a word is noticed; a unix socket knows no such thing.
    over_tcp = {} if url.startswith("unix:") else {"socket_keepalive": True}
    return Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 1),
        **over_tcp,
    )


def explain(error: Exception) -> str:
    """An error from Redis in one line for a person, without the address's password."""
    if isinstance(error, AuthenticationError):
        return "Redis refuses the password or user in queue.redis_url."
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
