"""`llmctl torture`: prove on this machine that no document is lost or published twice."""

import json
import random
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from llm_scheduler.api.cli.generate import random_seed
from llm_scheduler.api.cli.output import Json, console, duration, print_json, print_table, table
from llm_scheduler.api.cli.samples import documents
from llm_scheduler.api.torture.balance import TortureAccount, TortureDocument
from llm_scheduler.api.torture.poison import KEY, POISONS
from llm_scheduler.api.torture.run import TortureProgress
from llm_scheduler.api.torture.run import torture as run
from llm_scheduler.jobs.exit_codes import ExitCode

_BROKEN_SHARE = 0.05
_POISONED_SHARE = 0.01


def torture(
    count: Annotated[int, typer.Option("--documents", metavar="N", min=1, help="How many to drop.")] = 2000,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=1, help="How long to strike blows.")] = 60,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="The same seed repeats the same blows.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder even when the account balances.")] = False,
    as_json: Json = False,
) -> None:
    """Starts a test fleet, kills, freezes, poisons and wipes it and fills its disk while it works, then balances the
    account.
    """
    sown = random_seed() if seed is None else seed
    typer.echo(f"{count} documents, {seconds:g} s of blows, seed {sown}", err=True)
    account, progress, kept = run(_documents(count, sown), count, seconds, sown, _report, keep)
    if as_json:
        print_json(
            {
                **_figures(account),
                "rejected_by_code": dict(account.codes.most_common()),
                "unlucky": account.unlucky,
                "balanced": account.balanced,
                "cut_short": progress.is_cut_short,
                "seconds": round(progress.seconds, 1),
                "seed": sown,
                "blows": dict(progress.blows.most_common()),
                "disk_not_filled": progress.no_disk or None,
                "kept": kept,
            }
        )
    else:
        _print(account, progress, sown, kept)
    raise typer.Exit(ExitCode.OK if account.balanced else ExitCode.NOT_WELL)


def _report(words: str, progress: TortureProgress) -> None:
    typer.echo(f"{progress.seconds:6.1f} s {progress.dropped:6d} in {progress.ended:6d} ended   {words}", err=True)


_MEANINGS = {
    "in": "dropped into the watch folder",
    "done": "one result each, the original in the archive",
    "rejected": "one report each, beside the original",
    "in_flight": "not finished",
    "missing": "without an original in any folder",
    "duplicates": "with more than one original",
    "disagreeing": "without exactly one result or report",
    "astray": "done although bad, or rejected although valid",
    "strangers": "files that were not dropped",
}


def _figures(account: TortureAccount) -> dict[str, int]:
    values = {name: account.dropped if name == "in" else getattr(account, name) for name in _MEANINGS}
    return {name: value if isinstance(value, int) else len(value) for name, value in values.items()}


def _print(account: TortureAccount, progress: TortureProgress, seed: int, kept: str | None) -> None:
    out = console()
    made = table("account", "documents", "", numbers=["documents"], flexible=[""])
    for name, figure in _figures(account).items():
        made.add_row(name.replace("_", " "), str(figure), _MEANINGS[name])
        for code, times in account.codes.most_common() if name == "rejected" else ():
            made.add_row(f"  {code}", str(times), "")
    if account.unlucky:
        made.add_row("  unlucky", str(account.unlucky), "of these: valid, but rejected after too many kills")
    print_table(made)
    out.print()
    blows = table("blows", "times", numbers=["times"])
    for name, times in progress.blows.most_common():
        blows.add_row(name, str(times))
    blows.add_row("total", f"{progress.blows.total()}")
    print_table(blows)
    out.print()
    if progress.no_disk:
        out.print(f"The disk was not filled: {progress.no_disk}.")
    out.print(f"{duration(progress.seconds)}; the seed was {seed}.")
    if kept:
        out.print(f"Kept: {kept}")
    verdict = "The account balances." if account.balanced else "THE ACCOUNT DOES NOT BALANCE."
    if progress.is_cut_short and not account.balanced:
        verdict = "Stopped before its end: documents are still in flight, so the account proves nothing."
    out.print(Text(verdict, style="bold green" if account.balanced else "bold red"))


def _documents(count: int, seed: int) -> Iterator[TortureDocument]:
    chance = random.Random(f"{seed}/poison")  # noqa: S311 - a seed to repeat a run by
    for each in documents(count, seed, _BROKEN_SHARE):
        if each.is_rejected:
            yield TortureDocument(each.name, each.raw, "rejected")
        elif not each.is_broken and chance.random() < _POISONED_SHARE:
            kind = chance.choice(list(POISONS))
            yield TortureDocument(each.name, json.dumps({**json.loads(each.raw), KEY: kind}).encode(), POISONS[kind][1])
        else:
            yield TortureDocument(each.name, each.raw)
