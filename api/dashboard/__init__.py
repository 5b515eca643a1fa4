"""The pages: `/`, the dashboard, and `/docs`, which shows `/openapi.json` with Swagger UI. They need no other host."""

from collections.abc import Sequence
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
    own, swagger = files(__name__), files("offapi")
    # Read now: a page must fit to the API that serves it.
    return [
        _page("/", "text/html", own.joinpath("dashboard.html").read_bytes()),
        _page("/dashboard.js", "text/javascript", own.joinpath("dashboard.js").read_bytes()),
        _page("/dashboard.css", "text/css", own.joinpath("dashboard.css").read_bytes()),
        _page("/openapi.json", "application/json", openapi, _DOCS_POLICY),
        _page("/docs", "text/html", own.joinpath("docs.html").read_bytes(), _DOCS_POLICY),
        _page("/docs/start.js", "text/javascript", own.joinpath("docs.js").read_bytes(), _DOCS_POLICY),
        _page("/docs/swagger.js", "text/javascript", swagger.joinpath("swagger_bundle.js").read_bytes(), _DOCS_POLICY),
        _page("/docs/swagger.css", "text/css", swagger.joinpath("swagger_style.css").read_bytes(), _DOCS_POLICY),
    ]


def _page(path: str, media_type: str, content: bytes, policy: str = _POLICY) -> Route:
    def page(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"Content-Security-Policy": policy})

    return Route(path, page)
