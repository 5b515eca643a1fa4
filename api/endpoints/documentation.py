"""`GET /openapi.json`, and `GET /docs`, which shows it: Swagger UI out of a package, so that it needs no network."""

from collections.abc import Callable, Sequence
from importlib.resources import files

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llm_scheduler.api.http.openapi import document
from llm_scheduler.api.http.operation import Operation
from llm_scheduler.jobs.config import Config

# Swagger UI writes styles into its elements, and draws its icons from data: addresses.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>LLM JSON scheduler: API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger.css"><style>form { font: 16px sans-serif; margin: 3em; }</style></head>
<body>
<form id="ask" hidden><p id="why" role="alert"></p>
<label>API key <input id="key" type="password" autocomplete="off" required></label> <button>Open</button></form>
<div id="ui"></div><script src="/docs/swagger.js"></script><script src="/docs/start.js"></script>
</body>
</html>
"""
# Where keys are on the document needs one, too, which the reader has in their hands and the page has not. What is
# typed on the dashboard counts here, too, for as long as the tab is open.
_START = """
"use strict";
const form = document.getElementById("ask");

async function show() {
  const key = sessionStorage.getItem("key") ?? "";
  const answer = await fetch("/openapi.json", { headers: key ? { "X-API-Key": key } : {} });
  const told = await answer.json();
  form.hidden = answer.ok;
  if (!answer.ok) {
    sessionStorage.removeItem("key");
    document.getElementById("why").textContent = told.detail;
    return;
  }
  const ui = SwaggerUIBundle({
    dom_id: "#ui", deepLinking: true, validatorUrl: null, persistAuthorization: false, tryItOutEnabled: true,
    spec: told,
    onComplete: () => { if (key) ui.preauthorizeApiKey("key", key); },
  });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", document.getElementById("key").value);
  show();
});
show();
"""


def routes(operations: Sequence[Operation], config: Config) -> list[Route]:
    """The document of `operations`, made once, and the page with its parts."""
    security = config.security
    secured = security.api_key_enabled or security.jwt_enabled
    made = msgspec.json.encode(document(operations, config.queue.priority_levels, secured=secured))
    return [
        Route("/openapi.json", _static(lambda: made, "application/json")),
        Route("/docs", _static(_PAGE.encode, "text/html")),
        Route("/docs/start.js", _static(_START.encode, "text/javascript")),
        Route("/docs/swagger.js", _static(lambda: _asset("swagger_bundle.js"), "text/javascript")),
        Route("/docs/swagger.css", _static(lambda: _asset("swagger_style.css"), "text/css")),
    ]


def _asset(name: str) -> bytes:
    return files("offapi").joinpath(name).read_bytes()


def _static(content: Callable[[], bytes], media_type: str) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        return Response(content(), media_type=media_type, headers={"Content-Security-Policy": _POLICY})

    return endpoint
