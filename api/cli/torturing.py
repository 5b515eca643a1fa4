"""`llmctl torture`: prove on this machine that nothing is lost and nothing done twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exits import ExitCode
from api.cli.generate import new_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.local.torture import Account, Specimen


def torture(
    count: Annotated[int, typer.Option("--documents", metavar="N", min=1, help="How many to drop.")] = 2000,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=1, help="How long to go on.")] = 60,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="The same seed strikes the same blows.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder even when the account balances.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Prove that nothing is lost or done twice.

    Kills, freezes and wipes a fleet of its own while it works, then balances the account.
    """
    from api.cli.presenting import print_json
    from api.local.torture import torture as run

    sown = new_seed() if seed is None else seed
    typer.echo(f"{count} documents, {seconds:g} s of blows, seed {sown}", err=True)
    account, kept = run(
        _specimens(count, sown), count, seconds, sown, lambda blow: typer.echo(f"  {blow}", err=True), keep
    )
    if as_json:
        print_json({**_figures(account), "balanced": account.balanced, "blows": dict(account.blows), "kept": kept})
    else:
        for name, value in _figures(account).items():
            typer.echo(f"{name:<14} {value}")
        typer.echo(f"blows          {sum(account.blows.values())} in {account.seconds:.0f} s")
        typer.echo("The account balances." if account.balanced else f"THE ACCOUNT DOES NOT BALANCE. See {kept}")
    raise typer.Exit(ExitCode.OK if account.balanced else ExitCode.NOT_WELL)


def _figures(account: Account) -> dict[str, int]:
    return {
        "in": account.dropped,
        "done": account.done,
        "rejected": account.rejected,
        "in flight": account.in_flight,
        "missing": len(account.missing),
        "duplicates": len(account.duplicates),
        "disagreeing": len(account.disagreeing),
        "strangers": len(account.strangers),
        "seed": account.seed,
    }


def _specimens(count: int, seed: int) -> Iterator[Specimen]:
    from api.cli.specimens import documents
    from api.local.torture import Specimen

    for each in documents(count, seed, 0.05):
        yield Specimen(each.name, each.raw)
