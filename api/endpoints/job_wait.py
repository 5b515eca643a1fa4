"""`GET /jobs/{id}/wait`: the answer of `GET /jobs/{id}`, as soon as the job is final or the time is over.

A waiting request holds no thread: it follows the transitions, and reads the ledger when one is about its job.
"""

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from llm_scheduler.api.endpoints.jobs import JobDetail, read_job
from llm_scheduler.api.events.followers import Follower, Followers, followers_of
from llm_scheduler.api.events.streams import GAP, REDIS
from llm_scheduler.api.http.context import ApiContext, api_context, redis_access
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.http.problems import ProblemError
from llm_scheduler.jobs.document import FINAL

POLL_SECONDS = 1.0  # while the transitions can't be followed
_MAX_READ_SECONDS = 15.0  # the ledger is read again after this time in any case


class WaitQuery(msgspec.Struct, frozen=True, kw_only=True):
    timeout: Annotated[float, Meta(ge=0, le=60, description="The longest time to wait, in seconds.")] = 30.0


async def wait_for_job(request: Request, query: WaitQuery) -> JobDetail:
    """One job, as soon as it is done, rejected or cancelled, or when the time is over.

    The answer is that of `GET /jobs/{id}`; its `status` tells which of the two happened.
    """
    job = await _read(api_context(request), request.path_params["id"])
    if job.status in FINAL or query.timeout == 0:
        return job
    waiting = asyncio.ensure_future(_final(request, job, query.timeout))
    disconnect = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((waiting, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return waiting.result()
    finally:
        waiting.cancel()
        disconnect.cancel()
        await asyncio.wait((waiting, disconnect))


async def _disconnect(request: Request) -> None:
    """Returns when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _final(request: Request, job: JobDetail, seconds: float) -> JobDetail:
    """The job once it is final, or as it is after `seconds`."""
    context, followers = api_context(request), followers_of(request)
    now = asyncio.get_running_loop().time
    ends = now() + seconds
    follower = await followers.follow()
    try:
        # It may have become final before the follower was there; later transitions are followed.
        job = await _read_until(context, followers, job.id, ends)
        while job.status not in FINAL and (left := ends - now()) > 0 and not followers.stopping:
            await _transition(followers, follower, job.id, min(left, _MAX_READ_SECONDS))
            job = await _read_until(context, followers, job.id, ends)
        return job
    finally:
        await follower.close()


async def _transition(followers: Followers, follower: Follower, job_id: str, seconds: float) -> None:
    """Wait at most `seconds` for a reason to read the ledger again."""
    now = asyncio.get_running_loop().time
    ends = now() + (min(seconds, POLL_SECONDS) if follower.trouble else seconds)
    while now() < ends and not followers.stopping:
        entries = await follower.read(ends - now())
        if any(entry.is_about(job_id) or entry.kind in (GAP, REDIS) for entry in entries):
            return


async def _read_until(context: ApiContext, followers: Followers, job_id: str, ends: float) -> JobDetail:
    """The job as it is. While Redis is unreachable, or empty and not yet filled again, it tries again until `ends`."""
    while True:
        try:
            return await _read(context, job_id)
        except ProblemError:
            left = ends - asyncio.get_running_loop().time()
            if left <= 0 or followers.stopping:
                raise
        await asyncio.sleep(min(left, POLL_SECONDS))


async def _read(context: ApiContext, job_id: str) -> JobDetail:
    """The job as it is. Raises a 404 or a 503."""
    with redis_access(context):
        return await run_in_threadpool(read_job, context, job_id)


_ANSWERS = {200: Answer(JobDetail, "The job: final, or as it is when the time is over.")}
OPERATIONS = (Operation("GET", "/jobs/{id}/wait", wait_for_job, "jobs", _ANSWERS, query=WaitQuery, problems=(503,)),)
