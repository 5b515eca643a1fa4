"""`GET /jobs` and `GET /jobs/{id}`: what the ledger says of documents."""

import contextlib
import os
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.problems import ProblemError
from api.query import choice, parameters, refuse, whole_number
from api.site import Site, answer, asks_redis, site
from ingest.dropping import FOLDER, id_in_name
from jobs import ledger
from jobs.clock import rfc3339
from jobs.document import Status, is_id
from jobs.ledger import Entry

_STATUSES = [status.value for status in Status]
_LIFE = {status.value: place for place, status in enumerate(Status)}
_MOST_SCANNED = 100_000


@asks_redis
def list_jobs(request: Request) -> Response:
    """A page of jobs, newest first."""
    here = site(request)
    query = parameters(request, "status", "priority", "limit", "cursor")
    status = choice("status", query.get("status"), _STATUSES)
    priority = choice("priority", query.get("priority"), here.levels)
    limit = whole_number("limit", query.get("limit"), default=50, least=1, most=500)
    cursor = query.get("cursor")
    if cursor is not None and not is_id(cursor):
        refuse("cursor", cursor, "what an earlier answer gave as its cursor")
    page = ledger.page(
        here.redis,
        here.levels,
        status=Status(status) if status else None,
        priority=priority,
        limit=limit,
        cursor=cursor,
    )
    return answer({"jobs": [shown(entry) for entry in page.entries], "cursor": page.cursor})


@asks_redis
def get_job(request: Request) -> Response:
    """One job, with its timeline and the reasons for its route."""
    parameters(request)
    here = site(request)
    job_id = request.path_params["id"]
    entry = ledger.get(here.redis, job_id) if is_id(job_id) else None
    if entry is not None:
        return answer({**shown(entry), "timeline": timeline(entry), "reasons": entry.reasons})
    source = _waiting_source(here, job_id) if is_id(job_id) else None
    if source is not None:
        return answer(_dropped(job_id, source))
    raise ProblemError(
        404, f"There is no job {job_id[:50]!r}. Old jobs are forgotten; their files stay where they are."
    )


def shown(entry: Entry) -> dict[str, Any]:
    """A job as every list shows it."""
    received = entry.times.get(Status.RECEIVED.value)
    failed = entry.status is not Status.DONE and (entry.code or entry.message)
    return {
        "id": entry.id,
        "status": entry.status.value,
        "source": entry.source,
        "priority": entry.priority,
        "queue": entry.queue,
        "handler": entry.handler,
        "attempts": entry.attempts,
        "size": entry.size,
        "received_at": None if received is None else rfc3339(received),
        "rq_job_id": entry.rq_job_id,
        "error": {"code": entry.code, "message": entry.message} if failed else None,
    }


def timeline(entry: Entry) -> list[dict[str, str]]:
    """When the job last came to each status, in order."""
    times = [(at, _LIFE[status], status) for status, at in entry.times.items() if status in _LIFE]
    return [{"status": status, "at": rfc3339(at)} for at, _, status in sorted(times)]


def _waiting_source(here: Site, job_id: str) -> str | None:
    """The source of an accepted document that the ledger hasn't heard of: Redis was away, or had no room for it.

    The id is only compared with names that are there; no path is made of it.
    """
    folder = os.path.join(here.config.directories.watch[0], FOLDER)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for _, entry in zip(range(_MOST_SCANNED), entries, strict=False):
            source = f"{FOLDER}/{entry.name}"
            if not entry.name.startswith(".") and id_in_name(source) == job_id:
                return source
    return None


def _dropped(job_id: str, source: str) -> dict[str, Any]:
    entry = Entry(
        id=job_id,
        status=Status.RECEIVED,
        priority="",
        source=source,
        queue="",
        handler="",
        attempts=0,
        size=0,
        rq_job_id=None,
        code=None,
        message=None,
        reasons=[],
        times={},
    )
    unknown = dict.fromkeys(("priority", "queue", "handler", "size"))
    return {**shown(entry), **unknown, "timeline": [], "reasons": []}
