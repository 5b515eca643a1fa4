"""Errors as RFC 9457 problems: every answer that is not a success is `application/problem+json`."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from llm_scheduler.jobs.process.connection import explain

MEDIA_TYPE = "application/problem+json"
# Every answer carries these headers, errors too.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


class Problem(msgspec.Struct, frozen=True):
    """What went wrong. Further members may name the parts of `detail` for programs."""

    type: str
    title: str
    status: int
    detail: str


class ProblemError(Exception):
    """Ends a request with a problem. `extra` holds members beyond those of RFC 9457."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        self.extra = extra


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **extra: Any) -> Response:
    """The answer for one problem. It sets the security headers itself: an unexpected error passes no middleware."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **extra}
    return Response(
        msgspec.json.encode(body), status_code=status, media_type=MEDIA_TYPE, headers={**HEADERS, **(headers or {})}
    )


def redis_unavailable(error: Exception, consequence: str = "jobs can't be listed now.") -> ProblemError:
    """The problem for an unreachable Redis; `consequence` says what can't be done."""
    return ProblemError(
        503,
        f"Redis is unreachable ({explain(error)}), so {consequence} No document is lost: "
        "they are files on disk, and POST /jobs still takes more.",
        retry_after=2,
    )


def on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem(error.status, error.detail, error.headers, **error.extra)


def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: an unknown path, a method that a path doesn't have, a broken form."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        detail = (
            "There is nothing here. GET / shows the dashboard, /docs lists every operation; "
            "/jobs, /queues, /workers, /stats and /ready answer in JSON."
        )
    elif error.status_code == 405:
        detail = f"{request.method} is not possible here. Allowed: {headers.get('Allow', 'nothing')}."
    else:
        detail = error.detail
    return problem(error.status_code, detail, headers)


def on_disconnect(request: Request, error: Exception) -> Response:
    """The client has disconnected while it sent its body. Nothing was written, and nobody reads this answer."""
    return problem(400, "The request ended before its body did.")


def on_unexpected_error(request: Request, error: Exception) -> Response:
    """A bug. The server logs the traceback; the client doesn't see it."""
    return problem(500, "Something went wrong inside the API. Its log says what.")
