"""`GET /jobs/{id}/wait`: the same as `GET /jobs/{id}`, once the job is final or the time is over.

Whoever waits holds no thread: it follows the transitions with everybody else, and reads the ledger when one is about
its job.
"""

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from llm_scheduler.api.endpoints.jobs import JobDetail, describe
from llm_scheduler.api.events.following import Follower, Following, Lagging, following
from llm_scheduler.api.events.streams import GAP, REDIS
from llm_scheduler.api.http.context import Site, answer, site
from llm_scheduler.api.http.operation import Answer, Operation
from llm_scheduler.api.http.problems import ProblemError, redis_away
from llm_scheduler.jobs.document import FINAL
from llm_scheduler.jobs.process.connection import AWAY

POLL_SECONDS = 1.0  # while the transitions can't be followed
_LOOK_AGAIN_SECONDS = 15.0  # in any case


class WaitAsked(msgspec.Struct, frozen=True, kw_only=True):
    timeout: Annotated[float, Meta(ge=0, le=60, description="How long to wait at most, in seconds.")] = 30.0


async def wait_for_job(request: Request, query: WaitAsked) -> Response:
    """One job, as soon as it is done, rejected or cancelled; or as it is when the time is over.

    The answer is that of `GET /jobs/{id}`; its `status` says which of the two it was.
    """
    job = await _now(site(request), request.path_params["id"])
    if job.status in FINAL or query.timeout == 0:
        return answer(job)
    waiting = asyncio.ensure_future(_final(request, job, query.timeout))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return answer(waiting.result())
    finally:
        waiting.cancel()
        gone.cancel()
        await asyncio.wait((waiting, gone))


async def _gone(request: Request) -> None:
    """Ends when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _final(request: Request, job: JobDetail, seconds: float) -> JobDetail:
    here, everybody = site(request), following(request)
    now = asyncio.get_running_loop().time
    ends = now() + seconds
    follower = await everybody.follow()
    try:
        # It may have become final before that. From here on it is told when it does.
        job = await _still(here, everybody, job.id, ends)
        while job.status not in FINAL and (left := ends - now()) > 0 and not everybody.stopping:
            await _word(everybody, follower, job.id, min(left, _LOOK_AGAIN_SECONDS))
            job = await _still(here, everybody, job.id, ends)
        return job
    finally:
        follower.close()


async def _word(everybody: Following, follower: Follower, job_id: str, seconds: float) -> None:
    """Wait until there is reason to look again."""
    now = asyncio.get_running_loop().time
    ends = now() + (min(seconds, POLL_SECONDS) if everybody.trouble else seconds)
    while now() < ends and not everybody.stopping:
        try:
            heard = await follower.hear(ends - now())
        except Lagging:
            follower.skip()
            return
        if any(told.is_about(job_id) or told.kind in (GAP, REDIS) for told, _ in heard):
            return


async def _still(here: Site, everybody: Following, job_id: str, ends: float) -> JobDetail:
    """The job as it is. Redis may be away, or emptied and not yet filled again: then until `ends` it may be back."""
    while True:
        try:
            return await _now(here, job_id)
        except ProblemError:
            left = ends - asyncio.get_running_loop().time()
            if left <= 0 or everybody.stopping:
                raise
        await asyncio.sleep(min(left, POLL_SECONDS))


async def _now(here: Site, job_id: str) -> JobDetail:
    """The job as it is. Raises a 404 or a 503."""
    try:
        job = await run_in_threadpool(describe, here, job_id)
    except AWAY as error:
        here.lookout.failed()
        raise redis_away(error) from None
    here.lookout.answered()
    return job


OPERATIONS = (
    Operation(
        method="GET",
        path="/jobs/{id}/wait",
        endpoint=wait_for_job,
        tag="jobs",
        query=WaitAsked,
        answers={200: Answer(JobDetail, "The job: final, or as it is at the end of the time.")},
        problems=(503,),
    ),
)
