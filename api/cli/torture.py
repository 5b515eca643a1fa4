"""`llmctl torture`: prove on this machine that nothing is lost and nothing done twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode
from llm_scheduler.api.cli.generate import new_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_scheduler.api.torture.balance import Account, Specimen
    from llm_scheduler.api.torture.run import Course

_BROKEN_SHARE = 0.05
_POISONED_SHARE = 0.01


def torture(
    count: Annotated[int, typer.Option("--documents", metavar="N", min=1, help="How many to drop.")] = 2000,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=1, help="How long to go on.")] = 60,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="The same seed strikes the same blows.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder even when the account balances.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Prove that nothing is lost or done twice.

    Kills, freezes, poisons and wipes a fleet of its own and fills its disk while it works, then balances the account.
    """
    from llm_scheduler.api.cli.output import print_json
    from llm_scheduler.api.torture.run import torture as run

    sown = new_seed() if seed is None else seed
    typer.echo(f"{count} documents, {seconds:g} s of blows, seed {sown}", err=True)
    account, course, kept = run(_specimens(count, sown), count, seconds, sown, _tell, keep)
    if as_json:
        print_json(
            {
                **_figures(account),
                "rejected_by_code": dict(account.codes.most_common()),
                "unlucky": account.unlucky,
                "balanced": account.balanced,
                "cut_short": course.is_cut_short,
                "seconds": round(course.seconds, 1),
                "seed": sown,
                "blows": dict(course.blows.most_common()),
                "disk_not_filled": course.no_disk or None,
                "kept": kept,
            }
        )
    else:
        _print(account, course, sown, kept)
    raise typer.Exit(ExitCode.OK if account.balanced else ExitCode.NOT_WELL)


def _tell(words: str, course: Course) -> None:
    typer.echo(f"{course.seconds:6.1f} s {course.dropped:6d} in {course.ended:6d} ended   {words}", err=True)


def _figures(account: Account) -> dict[str, int]:
    return {
        "in": account.dropped,
        "done": account.done,
        "rejected": account.rejected,
        "in_flight": account.in_flight,
        "missing": len(account.missing),
        "duplicates": len(account.duplicates),
        "disagreeing": len(account.disagreeing),
        "astray": len(account.astray),
        "strangers": len(account.strangers),
    }


_MEANINGS = {
    "in": "dropped into the watch folder",
    "done": "one result each, the original in the archive",
    "rejected": "one report each, beside the original",
    "in_flight": "still on their way",
    "missing": "whose original is nowhere",
    "duplicates": "whose original is there twice",
    "disagreeing": "without exactly one result or report",
    "astray": "done though poisonous, or rejected though sound",
    "strangers": "files that nobody has dropped",
}


def _print(account: Account, course: Course, seed: int, kept: str | None) -> None:
    from rich.text import Text

    from llm_scheduler.api.cli.output import console, duration, emit, table

    out = console()
    made = table("account", "documents", "", numbers=["documents"], rubber=[""])
    for name, figure in _figures(account).items():
        made.add_row(name.replace("_", " "), str(figure), _MEANINGS[name])
        for code, times in account.codes.most_common() if name == "rejected" else ():
            made.add_row(f"  {code}", str(times), "")
    if account.unlucky:
        made.add_row("  unlucky", str(account.unlucky), "of these: sound, but three workers were killed with it")
    emit(made, out)
    out.print()
    blows = table("blows", "times", numbers=["times"])
    for name, times in course.blows.most_common():
        blows.add_row(name, str(times))
    blows.add_row("in all", f"{course.blows.total()}")
    emit(blows, out)
    out.print()
    if course.no_disk:
        out.print(f"The disk was not filled: {course.no_disk}.")
    out.print(f"{duration(course.seconds)}; the seed was {seed}.")
    if kept:
        out.print(f"Kept: {kept}")
    verdict = "The account balances." if account.balanced else "THE ACCOUNT DOES NOT BALANCE."
    if course.is_cut_short and not account.balanced:
        verdict = "Stopped before its end: what was in flight has not come home, so the account says nothing."
    out.print(Text(verdict, style="bold green" if account.balanced else "bold red"))


def _specimens(count: int, seed: int) -> Iterator[Specimen]:
    import json
    import random

    from llm_scheduler.api.cli.samples import documents
    from llm_scheduler.api.torture.balance import Specimen
    from llm_scheduler.api.torture.poison import KEY, POISONS

    chance = random.Random(f"{seed}/poison")  # noqa: S311 - a seed to repeat a run by
    for each in documents(count, seed, _BROKEN_SHARE):
        if each.is_refused:
            yield Specimen(each.name, each.raw, "rejected")
        elif not each.is_broken and chance.random() < _POISONED_SHARE:
            kind = chance.choice(list(POISONS))
            yield Specimen(each.name, json.dumps({**json.loads(each.raw), KEY: kind}).encode(), POISONS[kind][1])
        else:
            yield Specimen(each.name, each.raw)
