"""Handlers: the user's functions for documents, looked up by the names that the configuration gives them."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_scheduler import jobs

BUILT_IN = "llm_scheduler.jobs.summary:summarise"
# A handler says by its function's name in the configuration that it takes a whole batch.
TAKES_A_BATCH = "handle_batch"


class Reject(Exception):
    """Raised by a handler to refuse a document: it goes to the error folder with this reason and is not tried again.

    A handler of batches puts one into its list of results, in the place of the document that it refuses.
    """


@dataclass(frozen=True)
class Context:
    """What a handler is told beside the document.

    `attempt` counts from 1. `received_at` is in epoch seconds. `text` is the document's JSON text as it arrived.
    `country`, `city`, `industry` and `language` are the router's, empty where they are not known; `tags` its rules'.
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
    """What a handler of batches is told beside the documents: `documents` holds each one's own context, in order."""

    queue: str
    handler: str
    documents: tuple[Context, ...]


@dataclass(frozen=True)
class BatchHandler:
    """A function that takes the documents of a job together and returns a list with one result for each, in order."""

    function: Callable[[list[Any], BatchContext], Any]


Handler = Callable[[Any, Context], Any]


class HandlerMissing(Exception):
    """A handler's name leads to no function; the message says which and why."""


def load_handlers(configured: Mapping[str, str]) -> dict[str, Handler | BatchHandler | HandlerMissing]:
    """The functions behind `configured` (name to `package.module:function`), the built-in `default` added if unnamed.

    A handler that can't be imported is kept as the error it raised, so that one broken import
    stops the documents of that handler and no others. The working folder is importable.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a folder called `api` there must not hide a package
    _keep_old_import_names()
    paths = {"default": BUILT_IN, **configured}
    handlers: dict[str, Handler | BatchHandler | HandlerMissing] = {}
    for name, path in paths.items():
        try:
            handlers[name] = load_handler(path)
        except HandlerMissing as error:
            handlers[name] = error
    return handlers


def _keep_old_import_names() -> None:
    """Let handlers of before the one import name go on to say `from jobs.handler import Context, Reject`.

    A project's own package `jobs` keeps its name. This project's folder `jobs`, which is in the working folder of a
    checkout, is no such package: loaded under a second name, its `Reject` would be another class.
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
    if function_name == TAKES_A_BATCH:
        return BatchHandler(function)
    handler: Handler = function
    return handler
