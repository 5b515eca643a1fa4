"""`llmctl router rehearse`: what another configuration, or another model, would change."""

import heapq
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from llm_scheduler.api.cli.explain import Original, value_of
from llm_scheduler.api.cli.output import console, fail, print_json, quantity, table, track
from llm_scheduler.api.cli.settings import config_of, load_config
from llm_scheduler.ingest.router import Router
from llm_scheduler.ingest.spool.folders import files_below
from llm_scheduler.ingest.spool.originals import read_original
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.document import Route
from llm_scheduler.jobs.sealing import Seal, WrongKey

_FIELDS = ("priority", "queue", "handler", "schema", "accept", "tags", "country", "city", "industry", "language")
_SHOWN = 20


class Change(NamedTuple):
    """A document whose route would change. `fields` holds (before, after) for each changed field."""

    source: str
    fields: dict[str, tuple[Any, Any]]
    reasons: list[str]


class RuleComparison(NamedTuple):
    """The number of documents compared, of those whose original could not be read, and the changes."""

    documents: int
    unread: int
    changes: list[Change]


def rehearse(
    context: typer.Context,
    new_config: Annotated[Path, typer.Argument(metavar="NEW_CONFIG", help="The configuration to try.")],
    last: Annotated[int, typer.Option("--last", min=1, help="How many of the newest archived documents.")] = 1000,
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="Use this industry model with it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every change as JSON.")] = False,
) -> None:
    """Routes archived documents by the current and by the new configuration. Writes nothing."""
    now = config_of(context)
    then = load_config(new_config)
    paths = _newest(now.directories.archive_directory, last)
    if not paths:
        fail(f"There are no documents in {now.directories.archive_directory}.")
    try:
        routers = Router(now), Router(then, model)
    except (OSError, ValueError) as error:
        fail(f"{model or 'intelligent_routing.industry_model'}: {error}")
    comparison = _compare(track(_documents(paths, now), len(paths), "Routing"), *routers)
    if as_json:
        print_json({**comparison._asdict(), "changes": [change._asdict() for change in comparison.changes]})
    else:
        _print(comparison)


def _newest(folder: str, count: int) -> list[tuple[str, str]]:
    """(path, path below `folder`) of the newest files, oldest first."""
    times = ((os.lstat(path).st_mtime_ns, path) for path in files_below(folder) if os.path.isfile(path))
    return [(path, os.path.relpath(path, folder)) for _, path in reversed(heapq.nlargest(count, times))]


def _documents(paths: Iterable[tuple[str, str]], config: Config) -> Iterator[tuple[str, int, Any] | None]:
    """(source, size, value) of each document; None if its original can't be read."""
    keys = config.security.encryption_keys
    seal = Seal(keys) if keys else None
    for path, source in paths:
        try:
            raw = read_original(path, seal)
        except (OSError, WrongKey):
            yield None
            continue
        yield source, len(raw), value_of(Original(raw, source), config)


def _compare(documents: Iterable[tuple[str, int, Any] | None], now: Router, then: Router) -> RuleComparison:
    count = unread = 0
    changes: list[Change] = []
    for document in documents:
        count += 1
        if document is None:
            unread += 1
            continue
        source, size, value = document
        before, after = now.decide(value, source, size).route, then.decide(value, source, size).route
        if fields := _differences(before, after):
            changes.append(Change(source, fields, after.reasons))
    return RuleComparison(count, unread, changes)


def _differences(before: Route, after: Route) -> dict[str, tuple[Any, Any]]:
    pairs = {field: (getattr(before, field), getattr(after, field)) for field in _FIELDS}
    return {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}


def _print(comparison: RuleComparison) -> None:
    out = console()
    changes = comparison.changes
    unread = f"; {comparison.unread} could not be read" if comparison.unread else ""
    out.print(f"The route of {quantity(len(changes), 'document')} of {comparison.documents} would change{unread}.")
    if not changes:
        return
    kinds = Counter(
        (field, _text(old), _text(new)) for change in changes for field, (old, new) in change.fields.items()
    )
    rows = table("what", "now", "then", "documents", flexible=["now", "then"])
    for (field, old, new), count in kinds.most_common(_SHOWN):
        rows.add_row(field, old, new, str(count))
    out.print(rows)
    if len(kinds) > _SHOWN:
        out.print(f"and {len(kinds) - _SHOWN} other changes (--json has them all)")
    rows = table("document", "change", "reason", flexible=["document", "change", "reason"])
    for change in changes[:_SHOWN]:
        what = ", ".join(f"{field} {_text(old)} > {_text(new)}" for field, (old, new) in change.fields.items())
        rows.add_row(change.source, what, _reason(change.reasons))
    out.print(rows)
    if len(changes) > _SHOWN:
        out.print(f"and {len(changes) - _SHOWN} more (--json has them all)")


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value or "-")


def _reason(reasons: Sequence[str]) -> str:
    """The last rule that applied, else the first reason."""
    return reasons[-1] if reasons[-1].startswith("rule ") else reasons[0]
