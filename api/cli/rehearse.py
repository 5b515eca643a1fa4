"""`llmctl router rehearse`: what other rules, or another model, would change."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llm_scheduler.ingest.router import Router
    from llm_scheduler.jobs.config import Config
    from llm_scheduler.jobs.document import Route

_FIELDS = ("priority", "queue", "handler", "schema", "accept", "tags", "country", "city", "industry", "language")
_SHOWN = 20


class Change(NamedTuple):
    """One document that would go another way. `fields` have (before, after) each."""

    source: str
    fields: dict[str, tuple[Any, Any]]
    reasons: list[str]


class Rehearsal(NamedTuple):
    """What came of it; `unread` documents have an original that could not be read."""

    documents: int
    unread: int
    changes: list[Change]


def rehearse(
    context: typer.Context,
    new_config: Annotated[Path, typer.Argument(metavar="NEW_CONFIG", help="The configuration to try.")],
    last: Annotated[int, typer.Option("--last", min=1, help="So many of the newest archived documents.")] = 1000,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="With this industry model, instead of its own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every change as JSON.")] = False,
) -> None:
    """Show what a new configuration would change.

    Routes archived documents by the present configuration and by the new one. Nothing is written.
    """
    from llm_scheduler.api.cli.output import print_json, shown_progress
    from llm_scheduler.ingest.router import Router
    from llm_scheduler.jobs.config import ConfigError, load

    now = settings(context).config
    try:
        then = load(new_config)
    except ConfigError as error:
        fail(str(error), ExitCode.CONFIGURATION)
    paths = _newest(now.directories.archive_directory, last)
    if not paths:
        fail(f"There are no documents in {now.directories.archive_directory}.", ExitCode.NOT_WELL)
    try:
        routers = Router(now), Router(then, model)
    except (OSError, ValueError) as error:
        fail(f"{model or 'intelligent_routing.industry_model'}: {error}", ExitCode.NOT_WELL)
    found = _rehearsed(shown_progress(_documents(paths, now), len(paths), "Routing"), *routers)
    if as_json:
        print_json({**found._asdict(), "changes": [change._asdict() for change in found.changes]})
    else:
        _print(found)


def _newest(folder: str, count: int) -> list[tuple[str, str]]:
    """(path, path below `folder`) of the files that came last, the oldest of them first."""
    times = ((os.lstat(path).st_mtime_ns, path) for path in _files(folder))
    newest = heapq.nlargest(count, times)
    return [(path, os.path.relpath(path, folder)) for _, path in reversed(newest)]


def _files(folder: str) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if not name.startswith(".") and os.path.isfile(path):
                yield path


def _documents(paths: Iterable[tuple[str, str]], config: Config) -> Iterator[tuple[str, int, Any] | None]:
    """(source, size, value) of each document; None where its original can't be read."""
    from llm_scheduler.api.cli.explain import Original, value_of
    from llm_scheduler.ingest.spool.originals import read_original
    from llm_scheduler.jobs.sealing import Seal, WrongKey

    keys = config.security.encryption_keys
    seal = Seal(keys) if keys else None
    for path, source in paths:
        try:
            raw = read_original(path, seal)
        except (OSError, WrongKey):
            yield None
            continue
        yield source, len(raw), value_of(Original(raw, source), config)


def _rehearsed(documents: Iterable[tuple[str, int, Any] | None], now: Router, then: Router) -> Rehearsal:
    count = unread = 0
    changes: list[Change] = []
    for document in documents:
        count += 1
        if document is None:
            unread += 1
            continue
        source, size, value = document
        before, after = now.route(value, source, size), then.route(value, source, size)
        if fields := _differences(before, after):
            changes.append(Change(source, fields, after.reasons))
    return Rehearsal(count, unread, changes)


def _differences(before: Route, after: Route) -> dict[str, tuple[Any, Any]]:
    pairs = {field: (getattr(before, field), getattr(after, field)) for field in _FIELDS}
    return {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}


def _print(found: Rehearsal) -> None:
    from llm_scheduler.api.cli.output import console, counted, table

    out = console()
    said = f"{counted(len(found.changes), 'document')} of {found.documents} would go another way"
    unread = f"; {found.unread} could not be read" if found.unread else ""
    out.print(f"{said}{unread}.")
    if not found.changes:
        return
    kinds = Counter(
        (field, _word(old), _word(new)) for change in found.changes for field, (old, new) in change.fields.items()
    )
    rows = table("what", "now", "then", "documents", rubber=["now", "then"])
    for (field, old, new), count in kinds.most_common(_SHOWN):
        rows.add_row(field, old, new, str(count))
    out.print(rows)
    if len(kinds) > _SHOWN:
        out.print(f"and {len(kinds) - _SHOWN} other changes (--json has them all)")
    rows = table("document", "change", "reason", rubber=["document", "change", "reason"])
    for change in found.changes[:_SHOWN]:
        what = ", ".join(f"{field} {_word(old)} > {_word(new)}" for field, (old, new) in change.fields.items())
        rows.add_row(change.source, what, _reason(change.reasons))
    out.print(rows)
    if len(found.changes) > _SHOWN:
        out.print(f"and {len(found.changes) - _SHOWN} more (--json has them all)")


def _word(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value or "-")


def _reason(reasons: Sequence[str]) -> str:
    """The last rule that applied, else the first reason."""
    return reasons[-1] if reasons[-1].startswith("rule ") else reasons[0]
