"""A client for a full Redis: work that is there can still be finished, which makes room.

At `maxmemory` a server with `noeviction` (the only policy that loses no job) refuses every command that may take
memory. That includes taking and ending a job, though an ended job frees more than it takes. Scripts with the flag
`allow-oom` pass (Redis 7 and Valkey). Workers, the collector and the scheduler use them once a command is refused.
Ingest does not: it brings in new work.
"""

from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ExecAbortError, OutOfMemoryError, ResponseError

from llm_scheduler.jobs.store.keys import keys_of

MAX_OUTCOMES = 2  # entries of a stream that a full server holds before no more jobs are begun

_FLAGS = "#!lua flags=allow-oom\n"
_CALL = f"{_FLAGS}return redis.call(unpack(ARGV))"
# KEYS: queue, RQ's intermediate list, outcomes. ARGV: most outcomes, from and to which ends. Takes a job for a worker,
# but only while the collector keeps up: the results of a job may be larger than the job.
_TAKE = f"""{_FLAGS}
if redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[1]) then return false end
return redis.call('LMOVE', KEYS[1], KEYS[2], ARGV[2], ARGV[3])
"""
# The commands of this project and of RQ that a full server refuses.
_REFUSED = frozenset(
    {
        *("HSET", "HSETNX", "HMSET", "HINCRBY", "HINCRBYFLOAT", "INCRBY", "LMOVE", "LPUSH", "RPUSH"),
        *("SADD", "SET", "SETEX", "XADD", "ZADD", "ZINCRBY"),
    }
)


class FinishingRedis(Redis):
    """A client whose commands pass on a full server, where a script makes that possible.

    Transactions that watch keys do not: they raise OutOfMemoryError until there is room.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return self._send(*args, **options)
        except OutOfMemoryError as error:
            if args[0] == "BLMOVE":
                # A script cannot block. With nothing to take, the caller waits, as in an outage.
                outcomes = keys_of(self).outcomes(args[1].rpartition(":")[2])
                pressed: tuple[Any, ...] = ("EVAL", _TAKE, 3, args[1], args[2], outcomes, MAX_OUTCOMES, *args[3:5])
            else:
                pressed = _pressed(args)
            if pressed is args:
                raise
            done = _unless_unknown(lambda: self._send(*pressed), error)
            if done is None and args[0] == "BLMOVE":
                raise
            return done

    def _send(self, *args: Any, **options: Any) -> Any:
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return _FinishingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def finishing(redis: Redis) -> Redis:
    """A client with the same connections whose commands pass on a full server."""
    return redis if isinstance(redis, FinishingRedis) else FinishingRedis(connection_pool=redis.connection_pool)


class _FinishingPipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands = list(self.command_stack)
        watched = bool(self.watching)
        try:
            return super().execute(raise_on_error)
        except (OutOfMemoryError, ExecAbortError) as error:
            # The server had room when it queued the command and none when it ran it: then only the message says OOM.
            if watched or (isinstance(error, ExecAbortError) and "OOM" not in str(error)):
                raise
            for args, options in commands:
                pressed = _pressed(args)
                self.execute_command(*pressed, **({} if pressed is not args else options))  # type: ignore[no-untyped-call]
            done: list[Any] = _unless_unknown(lambda: super(_FinishingPipeline, self).execute(raise_on_error), error)
            return done


def _pressed(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The command as a script that a full server lets through, or the command itself where that is not needed."""
    if args[0] in _REFUSED:
        return ("EVAL", _CALL, 0, *args)
    if args[0] == "EVAL" and not args[1].startswith("#!"):
        return ("EVAL", _FLAGS + args[1], *args[2:])
    return args


def _unless_unknown(send: Any, refused: ResponseError) -> Any:
    try:
        return send()
    except ResponseError as error:
        if "ompiling" in str(error):  # before Redis 7 a script cannot have flags
            raise refused from None
        raise
