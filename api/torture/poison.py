"""The handler of a torture run: the built-in one, but a document can name a harm to its worker."""

import ctypes
import os
from collections.abc import Callable
from typing import Any, Literal

from llm_scheduler.jobs.handler import Context
from llm_scheduler.jobs.summary import summarise

KEY = "poison"
_HOARD_BYTES = 64 * 1024 * 1024


def handle(document: Any, context: Context) -> dict[str, Any]:
    """A summary of `document`, unless its `KEY` names one of `POISONS`."""
    kind = document.get(KEY) if isinstance(document, dict) else None
    if kind is not None:
        POISONS[kind][0](context)
    return summarise(document, context)


def _segfault(context: Context) -> None:
    ctypes.string_at(0)


def _exit(context: Context) -> None:
    os._exit(1)


def _hoard(context: Context) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(_HOARD_BYTES))


def _loop(context: Context) -> None:
    while True:
        pass


def _stumble(context: Context) -> None:
    if context.attempt == 1:
        raise OSError("the first attempt fails")


# What each poison does, and how its document must end.
POISONS: dict[str, tuple[Callable[[Context], None], Literal["done", "rejected"]]] = {
    "segfault": (_segfault, "rejected"),
    "exit": (_exit, "rejected"),
    "hoard": (_hoard, "rejected"),
    "loop": (_loop, "rejected"),
    "stumble": (_stumble, "done"),
}
