"""The pages: `/`, the dashboard, and `/docs`, which shows `/openapi.json` with Swagger UI. They need no other host."""

from collections.abc import Callable, Sequence
from importlib.resources import files

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llm_scheduler.api.http.openapi import document
from llm_scheduler.api.http.operation import Operation
from llm_scheduler.jobs.config import Config

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
# Swagger UI sets styles on its elements, and loads icons from its own host and from data: addresses.
_DOCS_POLICY = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'").replace(
    "img-src data:", "img-src 'self' data:"
)


def routes(operations: Sequence[Operation], config: Config) -> list[Route]:
    """The pages with their files, and the OpenAPI document of `operations`."""
    security = config.security
    secured = security.api_key_enabled or security.jwt_enabled
    openapi = msgspec.json.encode(document(operations, config.queue.priority_levels, secured=secured))
    swagger = files("offapi")
    return [
        Route(path, _content(read, media_type, _DOCS_POLICY if path.startswith(("/docs", "/openapi")) else _POLICY))
        for path, media_type, read in (
            ("/", "text/html", _own("dashboard.html")),
            ("/dashboard.js", "text/javascript", _own("dashboard.js")),
            ("/dashboard.css", "text/css", _own("dashboard.css")),
            ("/openapi.json", "application/json", lambda: openapi),
            ("/docs", "text/html", _own("docs.html")),
            ("/docs/start.js", "text/javascript", _own("docs.js")),
            ("/docs/swagger.js", "text/javascript", swagger.joinpath("swagger_bundle.js").read_bytes),
            ("/docs/swagger.css", "text/css", swagger.joinpath("swagger_style.css").read_bytes),
        )
    ]


def _own(name: str) -> Callable[[], bytes]:
    """A file of this folder, read now: a page must fit to the API that serves it."""
    content = files(__name__).joinpath(name).read_bytes()
    return lambda: content


def _content(read: Callable[[], bytes], media_type: str, policy: str) -> Callable[[Request], Response]:
    def page(request: Request) -> Response:
        return Response(read(), media_type=media_type, headers={"Content-Security-Policy": policy})

    return page
