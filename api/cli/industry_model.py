"""`llmctl router train`, `eval`, `label`, `use` and `rollback`: training, measuring and switching industry models."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from llm_scheduler.api.cli.explain import original_of, value_of
from llm_scheduler.api.cli.output import Json, console, fail, print_json, quantity, table
from llm_scheduler.api.cli.settings import config_of
from llm_scheduler.ingest.router.industry.linear_model import Model
from llm_scheduler.ingest.router.industry.trainer import Row, Scores, read_rows
from llm_scheduler.ingest.router.industry.trainer import evaluate as evaluate_model
from llm_scheduler.ingest.router.industry.trainer import train as train_model
from llm_scheduler.ingest.router.text import Text
from llm_scheduler.jobs.config import Config
from llm_scheduler.jobs.exit_codes import ExitCode
from llm_scheduler.jobs.sealing import sealing_of

Rows = Annotated[Path, typer.Option("--data", metavar="FILE", help='Lines {"text": ..., "label": ...}, also as .xz.')]
Taxonomy = Literal["isic", "own"]


def train(
    context: typer.Context,
    data: Rows,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The model file to write.")],
    taxonomy: Annotated[Taxonomy, typer.Option("--taxonomy", help="The labels: ISIC sections, or your own.")] = "own",
    labels: Annotated[bool, typer.Option(help="Learn also from the corrections of `llmctl router label`.")] = True,
    as_json: Json = False,
) -> None:
    """Measure the model with `llmctl router eval`, on other texts."""
    rows = _rows(data, taxonomy)
    corrections = Path(config_of(context).intelligent_routing.labels) if labels else None
    if corrections and corrections.exists():
        rows += _rows(corrections, taxonomy)
    began = time.monotonic()
    with _failures_of(data):
        model = train_model(rows, taxonomy)
    with _failures_of(out):
        model.save(out)
    seconds = round(time.monotonic() - began, 1)
    names = sorted({row.label for row in rows})
    if as_json:
        print_json({"rows": len(rows), "labels": names, "model": str(out), "seconds": seconds})
    else:
        typer.echo(f"{quantity(len(rows), 'row')}, {quantity(len(names), 'label')}, {seconds} s: {out}")


def evaluate(
    context: typer.Context,
    data: Rows,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="The model (default: the configured one).")
    ] = None,
    as_json: Json = False,
) -> None:
    """The model must not have been trained on these texts."""
    path = model or _configured(config_of(context))
    with _failures_of(path):
        loaded = Model.load(path)
    rows = _rows(data, loaded.taxonomy)
    with _failures_of(data):
        scores = evaluate_model(loaded, rows)
    if as_json:
        print_json(scores)
    else:
        _print(scores)


def label(
    context: typer.Context,
    document_id: Annotated[str, typer.Argument(metavar="ID", help="A finished document.")],
    name: Annotated[str, typer.Argument(metavar="LABEL", help="The right label: an ISIC section, or your own.")],
) -> None:
    config = config_of(context)
    original = original_of(config, document_id)
    value = value_of(original, config)
    sealing = sealing_of(config.security)
    text = Text.from_document(sealing.without(value) if sealing else value).whole
    if not text.strip():
        fail(f"{original.source} has no text to learn from.")
    line = msgspec.json.encode({"text": text, "label": name, "id": document_id.strip().upper()}) + b"\n"
    path = Path(config.intelligent_routing.labels)
    with _failures_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            file.write(line)
    typer.echo(f"Saved in {path}: {original.source} is {name}")


def use(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="FILE", help="A model that `llmctl router train` made.")],
) -> None:
    """Ingest loads the new model within seconds. The previous model is kept for `rollback`."""
    target = _configured(config_of(context))
    with _failures_of(model):
        Model.load(model)
        _replace(model, target)
    typer.echo(f"{target} is now a copy of {model}")


def rollback(context: typer.Context) -> None:
    """Swaps the configured model and the one that `use` replaced."""
    target = _configured(config_of(context))
    previous = _previous(target)
    if not previous.exists():
        fail(f"There is no previous model: {previous} is missing.")
    with _failures_of(previous):
        _replace(previous, target)
    typer.echo(f"{target} is the previous model again; the replaced one is {previous}")


@contextmanager
def _failures_of(path: Path) -> Iterator[None]:
    """End the command with a message that names `path` if it cannot be read or written, or holds something wrong."""
    try:
        yield
    except OSError as error:
        fail(f"{path}: {error.strerror or error}.")
    except ValueError as error:
        fail(str(error) if str(path) in str(error) else f"{path}: {error}")


def _configured(config: Config) -> Path:
    model = config.intelligent_routing.industry_model
    if not model:
        fail("intelligent_routing.industry_model is not set: set it to the model file.", ExitCode.CONFIGURATION)
    return Path(model)


def _replace(model: Path, target: Path) -> None:
    """Replace `target` by a copy of `model`, and keep the previous one.

    There is a whole model at `target` at every instant: ingest does not start without one. Raises OSError.
    """
    new, kept = (target.with_name(f".{target.name}.{ending}") for ending in ("new", "kept"))
    shutil.copyfile(model, new)
    if target.exists():
        shutil.copyfile(target, kept)
        os.replace(kept, _previous(target))
    os.replace(new, target)


def _previous(target: Path) -> Path:
    return target.with_name(f"{target.name}.previous")


def _rows(path: Path, taxonomy: Taxonomy) -> list[Row]:
    with _failures_of(path):
        return read_rows(path, taxonomy)


def _print(scores: Scores) -> None:
    out = console()
    figures = f"accuracy {scores.accuracy:.3f}, macro F1 {scores.macro_f1:.3f}, calibration error {scores.ece:.3f}"
    out.print(figures)
    rows = table(
        "label", "rows", "recall", "precision", "F1", numbers=("rows", "recall", "precision", "F1"), flexible=["label"]
    )
    for name, score in sorted(scores.labels.items()):
        rows.add_row(name, str(score.rows), f"{score.recall:.3f}", f"{score.precision:.3f}", f"{score.f1:.3f}")
    out.print(rows)
