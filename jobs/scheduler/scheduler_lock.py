"""The lock of the scheduler that works; others stand by. Its owner renews it (rq-scheduler's own lock has no owner).

Another scheduler takes it when it expires, or at once when its owner is known to be dead.
"""

import os
import secrets
import socket

from redis import Redis

from llm_scheduler.jobs.process import liveness

# KEYS: lock. ARGV: owner, milliseconds, an owner that is known to be dead (or ""). Returns the owner afterwards.
_TAKE = """
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif not owner or owner == ARGV[3] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  owner = ARGV[1]
end
return owner
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


def owner_name() -> str:
    """A name for this process. Where possible it tells others on this machine how to see whether the process lives."""
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return f"{name} {liveness.here()} {liveness.identity(os.getpid())}".strip()


def take(redis: Redis, lock: str, owner: str, seconds: float) -> bool:
    """Take or renew the lock for `seconds`. False when another owner has it."""
    holder = _take(redis, lock, owner, seconds)
    place, _, process = holder.partition(" ")[2].partition(" ")
    if holder != owner and liveness.is_gone(place, process):
        holder = _take(redis, lock, owner, seconds, dead=holder)
    return holder == owner


def release(redis: Redis, lock: str, owner: str) -> None:
    """Release the lock, if it is the owner's."""
    redis.eval(_RELEASE, 1, lock, owner)


def _take(redis: Redis, lock: str, owner: str, seconds: float, dead: str = "") -> str:
    holder = redis.eval(_TAKE, 1, lock, owner, int(seconds * 1000), dead)
    return str(holder.decode(errors="replace"))
