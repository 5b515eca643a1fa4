"""`GET /`: a page that shows the API's answers and refreshes itself. It loads nothing from anywhere else."""

from collections.abc import Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def _page(name: str, media_type: str) -> Callable[[Request], Response]:
    content = files(__name__).joinpath(name).read_bytes()

    def page(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"Content-Security-Policy": _POLICY})

    return page


ROUTES = (
    Route("/", _page("dashboard.html", "text/html")),
    Route("/dashboard.js", _page("dashboard.js", "text/javascript")),
    Route("/dashboard.css", _page("dashboard.css", "text/css")),
)
