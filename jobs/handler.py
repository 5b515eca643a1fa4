"""Handlers: the user's functions for documents, by their names in the configuration."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_scheduler import jobs


class Reject(Exception):
    """Raised by a handler to reject a document: it goes to the error folder with this reason, without a retry.

    A batch handler puts one into its list of results, in the place of the rejected document.
    """


@dataclass(frozen=True)
class Context:
    """What a handler gets beside the document.

    `attempt` counts from 1. `received_at` is in epoch seconds. `text` is the document's JSON text as it arrived.
    `country` to `language` come from the router and are empty if unknown; `tags` come from its rules.
    """

    id: str
    source: str
    priority: str
    queue: str
    handler: str
    attempt: int
    received_at: float
    text: bytes = field(repr=False, default=b"")
    country: str = ""
    city: str = ""
    industry: str = ""
    language: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchContext:
    """What a batch handler gets beside the documents. `documents` holds the context of each, in order."""

    queue: str
    handler: str
    documents: tuple[Context, ...]


@dataclass(frozen=True)
class BatchHandler:
    """A function that takes all documents of a job and returns a list with one result for each, in order."""

    function: Callable[[list[Any], BatchContext], Any]


Handler = Callable[[Any, Context], Any]


class HandlerMissing(Exception):
    """A configured handler cannot be used; the message says which and why."""


def load_handlers(configured: Mapping[str, str]) -> dict[str, Handler | BatchHandler | HandlerMissing]:
    """The functions for `configured` (name to `package.module:function`), and the built-in `default` if not named.

    In the place of a handler that cannot be imported is its error: only that handler's documents are rejected.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # at the end: a folder there must not hide an installed package
    _keep_old_import_names()
    handlers: dict[str, Handler | BatchHandler | HandlerMissing] = {}
    for name, path in {"default": "llm_scheduler.jobs.summary:summarise", **configured}.items():
        try:
            handlers[name] = load_handler(path)
        except HandlerMissing as error:
            handlers[name] = error
    return handlers


def _keep_old_import_names() -> None:
    """Older handlers say `from jobs.handler import Context, Reject`: let that go on working.

    The user's own package `jobs` has precedence. The folder `jobs` of a checkout of this project is not one: imported
    under a second name, its `Reject` would be another class.
    """
    spec = importlib.util.find_spec("jobs")
    if spec is None or (spec.origin and jobs.__file__ and os.path.samefile(spec.origin, jobs.__file__)):
        sys.modules["jobs"] = jobs
        sys.modules["jobs.handler"] = sys.modules[__name__]


def load_handler(path: str) -> Handler | BatchHandler:
    """The function at `package.module:function`; one called `handle_batch` takes batches. Raises `HandlerMissing`."""
    module_name, _, function_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:  # a module that is a script may end in sys.exit()
        raise HandlerMissing(f"{path}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise HandlerMissing(f"{path}: {module_name} has no function {function_name}")
    if inspect.iscoroutinefunction(function):
        raise HandlerMissing(f"{path}: a handler has to be a plain function, and this one is async")
    if function_name == "handle_batch":
        return BatchHandler(function)
    handler: Handler = function
    return handler
